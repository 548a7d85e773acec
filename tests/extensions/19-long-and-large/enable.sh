# A status that grows past the limit, is half-written for a while, and ends with hundreds of substatuses.
raw '[{"status": {"status": "transitioning", "formattedMess'
until [ -f "$go" ]; do sleep 0.1; done
python3 - "$here/status/$ConfigSequenceNumber.status" <<'END'
import json, os, sys
parts = [{"name": f"part {n}", "status": "success", "code": 0, "formattedMessage": {"lang": "en-US", "message": "m" * 2000}} for n in range(400)]
status = {"status": "success", "code": 0, "formattedMessage": {"lang": "en-US", "message": "M" * 50000}, "substatus": parts}
with open(sys.argv[1] + ".tmp", "w") as file:
    json.dump([{"version": "1.0", "status": status}], file)
os.replace(sys.argv[1] + ".tmp", sys.argv[1])
END
