# `failed` is no word of the contract, and common; a substatus may hold any word. [CustomScriptForLinux, AMA, OMS]
case $(setting case) in
top) status failed "went wrong" ;;
sub) raw '[{"status": {"status": "success", "substatus": [{"name": "s", "status": "sideways", "formattedMessage": {"message": "?"}}], "formattedMessage": {"lang": "en-US", "message": "fine"}}}]' ;;
esac
