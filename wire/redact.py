"""Taking secrets out of text: SAS signatures, protected settings, credentials, private keys.

Each pattern is linear: no nested repetition, so hostile text costs time in proportion to its length.
"""

import re

MARK = "<redacted>"

# A query that carries one parameter of a shared access signature is taken out whole.
_QUERY = re.compile(r"\?[^\s\"'<>?]+")
_SAS_PARAMETER = re.compile(r"(?:^|[?&;])(?:sv|st|se|sr|sp|sip|spr|sig)=", re.IGNORECASE)
_SIGNATURE = re.compile(r"\b(sig|signature|sharedaccesssignature)=[^&\s\"'<>]+", re.IGNORECASE)
_FIELD = re.compile(
    r"(\\?\"(?:protectedSettings|encryptedSettings|password|secret|accountKey|storageAccountKey)\\?\"\s{0,8}:\s{0,8})"
    r"(?:\\\"[^\"\\]*\\\"|\"(?:[^\"\\]|\\.)*\"?)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(authorization\s{0,4}[:=]\s{0,4}(?:(?:bearer|basic|sharedkey)\s{1,4})?)[^\s\"',;]+", re.IGNORECASE
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)", re.DOTALL
)


def redact(text: str, mark: str = MARK) -> str:
    """`text` with its secrets replaced by `mark` (no backslash in it)."""
    text = _QUERY.sub(lambda query: "?" + mark if _SAS_PARAMETER.search(query[0]) else query[0], text)
    text = _SIGNATURE.sub(r"\1=" + mark, text)
    text = _FIELD.sub(r'\1"' + mark + '"', text)
    text = _AUTHORIZATION.sub(r"\1" + mark, text)
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(mark, text)
    return text
