# More events than anybody wants, a file too large, names that do not count.
events=$(sed -n 's/.*"eventsFolder": "\([^"]*\)".*/\1/p' "$here/HandlerEnvironment.json")
python3 - "$events" <<'END'
import json, sys
event = {"Version": "1.0", "Timestamp": "2026-01-01T00:00:00Z", "TaskName": "Flood", "EventLevel": "Informational",
         "Message": "m", "EventPid": "1", "EventTid": "1", "OperationId": "op"}
for number in range(1000):
    open(f"{sys.argv[1]}/{2000 + number}.json", "w").write(json.dumps({**event, "Message": f"flood {number}"}))
open(f"{sys.argv[1]}/9000.json", "w").write(json.dumps({**event, "Message": "long " + "x" * 5000}))
open(f"{sys.argv[1]}/9001.json", "wb").write(b" " * (5 * 1024 * 1024))
open(f"{sys.argv[1]}/notes.txt", "w").write("not an event")
END
status success "flooded"
