# The object alone, nulls where texts belong, JSON inside messages, keys nobody knows. [TestHandler, VMSnapshot]
raw '{"status": {"status": "success", "substatus": null, "snapshotInfo": [1], "formattedMessage": {"lang": "en-US", "message": "{\"inner\": \"json\"}"}}, "unknown": {}}'
