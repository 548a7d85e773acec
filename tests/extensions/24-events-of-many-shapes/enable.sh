# One object a file, lists, any case of keys, numbers as text; a subfolder. [ApplicationHealth, LinuxPatch, VMSnapshot]
events=$(sed -n 's/.*"eventsFolder": "\([^"]*\)".*/\1/p' "$here/HandlerEnvironment.json")
event='"Version": "1.0", "Timestamp": "2026-01-01T00:00:00Z", "TaskName": "Probe", "EventLevel": "Informational"'
mkdir -p "$events/Temp"
echo "{$event, \"Message\": \"one object\", \"EventPid\": \"12\", \"EventTid\": 1, \"OperationId\": \"op\"}" > "$events/1001.json"
echo "[{$event, \"Message\": \"in a list\", \"EventPid\": \"\", \"EventTid\": \"1\", \"OperationId\": \"\"}, {$event, \"Message\": \"\", \"EventPid\": 1, \"EventTid\": 1, \"OperationId\": \"\"}]" > "$events/1002.json"
echo "{\"version\": \"1.0\", \"TimeStamp\": \"2026-01-01T00:00:00.123\", \"TASKNAME\": \"p\", \"eventlevel\": \"Error\", \"message\": \"any case\", \"eventpid\": 1, \"eventtid\": 1, \"operationid\": \"op\"}" > "$events/1003.json"
echo "{$event}" > "$events/1004.json"
echo "not json" > "$events/1005.json"
status success "events written"
