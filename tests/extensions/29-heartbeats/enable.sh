# Each form of heartbeat.log; the settings say which.
case $(setting case) in
ready) beat='[{"version": 1.0, "heartbeat": {"status": "ready", "code": 0, "formattedMessage": {"lang": "en-US", "message": "alive"}}}]' ;;
old) beat='[{"version": 1.0, "heartbeat": {"status": "ready", "code": "0", "Message": "ignored"}}]' ;;
notready) beat='[{"version": 1.0, "heartbeat": {"status": "NotReady", "code": 7, "formattedMessage": {"lang": "en-US", "message": "ill"}}}]' ;;
broken) beat='[{"version": 1.0, "heartbeat": ' ;;
esac
echo "$beat" > "$here/heartbeat.log"
status success "beating"
