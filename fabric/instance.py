"""What IMDS says of one VM: the document of each version has the fields Azure's has."""

import hashlib
import ipaddress
from typing import Any

from fabric.vm import Vm

VERSIONS = (
    "2017-03-01", "2017-04-02", "2017-08-01", "2017-10-01", "2017-12-01", "2018-02-01", "2018-04-02", "2018-10-01",
    "2019-02-01", "2019-03-11", "2019-04-30", "2019-06-01", "2019-06-04", "2019-08-01", "2019-08-15", "2019-11-01",
    "2020-06-01", "2020-07-15", "2020-09-01", "2020-10-01", "2020-12-01", "2021-01-01", "2021-02-01", "2021-03-01",
    "2021-05-01", "2021-10-01", "2021-11-01", "2021-11-15", "2021-12-13", "2023-07-01",
)  # fmt: skip
_SINCE = {
    "resourceGroupName": "2017-08-01",
    "subscriptionId": "2017-08-01",
    "tags": "2017-08-01",
    "placementGroupId": "2017-08-01",
    "vmScaleSetName": "2017-12-01",
    "zone": "2017-12-01",
    "plan": "2018-04-02",
    "provider": "2018-04-02",
    "publicKeys": "2018-04-02",
    "azEnvironment": "2018-10-01",
    "customData": "2019-02-01",
    "resourceId": "2019-03-11",
    "storageProfile": "2019-06-01",
    "tagsList": "2019-06-04",
    "isHostCompatibilityLayerVm": "2020-06-01",
    "securityProfile": "2020-06-01",
    "osProfile": "2020-07-15",
    "licenseType": "2020-09-01",
    "evictionPolicy": "2020-12-01",
    "priority": "2020-12-01",
    "userData": "2021-01-01",
}
"""Fields of `compute` that are not in the first version."""


def instance(vm: Vm, version: str, client: str) -> dict[str, Any]:
    """`client`: where the request came from, for a VM that is not known by its address."""
    compute = {name: value for name, value in _compute(vm).items() if version >= _SINCE.get(name, "")}
    return {"compute": compute, "network": {"interface": [_interface(vm, vm.state.address or client)]}}


def _compute(vm: Vm) -> dict[str, Any]:
    identity = vm.identity
    group, subscription = "azvmagent", identity.deployment_id
    path = f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute/virtualMachines"
    return {
        "azEnvironment": "AzurePublicCloud",
        "customData": "",
        "evictionPolicy": "",
        "isHostCompatibilityLayerVm": "false",
        "licenseType": "",
        "location": "local",
        "name": identity.vm,
        "offer": "",
        "osProfile": {"adminUsername": "", "computerName": identity.vm, "disablePasswordAuthentication": "true"},
        "osType": "Linux",
        "placementGroupId": "",
        "plan": {"name": "", "product": "", "publisher": ""},
        "platformFaultDomain": "0",
        "platformUpdateDomain": "0",
        "priority": "",
        "provider": "Microsoft.Compute",
        "publicKeys": [],
        "publisher": "",
        "resourceGroupName": group,
        "resourceId": f"{path}/{identity.vm}",
        "securityProfile": {"secureBootEnabled": "false", "virtualTpmEnabled": "false"},
        "sku": "",
        "storageProfile": {"dataDisks": [], "imageReference": {}, "osDisk": {"name": "", "osType": "Linux"}},
        "subscriptionId": subscription,
        "tags": "",
        "tagsList": [],
        "userData": "",
        "version": "",
        "vmId": identity.container_id,
        "vmScaleSetName": "",
        "vmSize": "Standard_Local",
        "zone": "",
    }


def _interface(vm: Vm, address: str) -> dict[str, Any]:
    there: dict[str, Any] = {"ipv4": {"ipAddress": [], "subnet": []}, "ipv6": {"ipAddress": []}}
    if ":" in address:
        there["ipv6"]["ipAddress"] = [{"privateIpAddress": address}]
    elif address:
        subnet = ipaddress.ip_network(f"{address}/{8 if address.startswith('127.') else 24}", strict=False)
        there["ipv4"] = {
            "ipAddress": [{"privateIpAddress": address, "publicIpAddress": ""}],
            "subnet": [{"address": str(subnet.network_address), "prefix": str(subnet.prefixlen)}],
        }
    return {**there, "macAddress": (vm.state.mac or _mac(vm)).replace(":", "").upper()}


def _mac(vm: Vm) -> str:
    """Nobody said which: one that no other VM has, and that it keeps."""
    return "000d3a" + hashlib.sha256(f"{vm.state.tenant}/{vm.name}".encode()).hexdigest()[:6]
