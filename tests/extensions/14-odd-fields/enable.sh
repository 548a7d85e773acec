# Codes as text, negative or absent; no name; versions and times in every form.
raw '[{"version": 1, "timestampUTC": "2026-01-01T00:00:00+00:00", "status": {"status": "success", "operation": "", "code": "7", "substatus": [{"status": "success", "code": -21, "formattedMessage": {"lang": "en-US", "message": "x"}}], "formattedMessage": {"lang": "en-US", "message": "odd"}}}]'
