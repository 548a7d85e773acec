# NULs, control characters, other scripts, and secrets in its output and its status.
printf 'a\000b\033[31m\377 https://x.blob.core.windows.net/c?sv=1&sig=CANARYSECRET\n'
printf 'password\000\n' >&2
raw '[{"status": {"status": "success", "formattedMessage": {"lang": "en-US", "message": "n\u0000l \u001b[31m \u6587\u5b57 https://x.blob.core.windows.net/c?sv=1&sig=CANARYSECRET"}}}]'
