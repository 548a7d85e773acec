"""The instance metadata service, as much of it as agents ask for (protocol: IMDS)."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fabric.vm import Vm


def answer(vm: Vm, request: Request) -> Response:
    """GET /metadata/instance[/compute|/network]."""
    if request.method != "GET":
        return JSONResponse({"error": "Method not allowed"}, 405)
    if request.headers.get("metadata", "").lower() != "true" or "x-forwarded-for" in request.headers:
        return JSONResponse({"error": "Bad request. Required metadata header not specified"}, 400)
    if not request.query_params.get("api-version"):
        return JSONResponse({"error": "Bad request. api-version was not specified"}, 400)
    instance = _instance(vm)
    match request.scope["path"].rstrip("/"):
        case "/metadata/instance":
            return JSONResponse(instance)
        case "/metadata/instance/compute":
            return JSONResponse(instance["compute"])
        case "/metadata/instance/network":
            return JSONResponse(instance["network"])
    return JSONResponse({"error": "Not found"}, 404)


def _instance(vm: Vm) -> dict[str, object]:
    identity = vm.identity
    return {
        "compute": {
            "location": "local",
            "name": identity.vm,
            "osType": "Linux",
            "publisher": "",
            "offer": "",
            "sku": "",
            "version": "",
            "resourceGroupName": "azvmagent",
            "subscriptionId": identity.deployment_id,
            "vmId": identity.container_id,
            "vmSize": "Standard_Local",
        },
        "network": {
            "interface": [
                {
                    "ipv4": {
                        "ipAddress": [{"privateIpAddress": vm.state.address or "127.0.0.1", "publicIpAddress": ""}],
                        "subnet": [{"address": "127.0.0.0", "prefix": "8"}],
                    },
                    "ipv6": {"ipAddress": []},
                    "macAddress": "000D3A000001",
                }
            ]
        },
    }
