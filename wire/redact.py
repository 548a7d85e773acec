"""Taking secrets out of text: SAS signatures, protected settings, credentials, private keys.

Each pattern is linear: no nested repetition, so hostile text costs time in proportion to its length.
"""

import re

MARK = "<redacted>"

# Text is often JSON in a string of JSON: a quote then has backslashes before it, and an ampersand may be `\u0026`. What
# is taken out never takes a quote's backslashes along, or the string around it would end there.
_AND = r"\\{1,15}+u0026"

# A query that carries one parameter of a shared access signature is taken out whole.
_QUERY = re.compile(rf"\?(?:[^\s\"'<>?\\]|{_AND})+")
_SAS_PARAMETER = re.compile(r"(?:^|[?&;]|u0026)(?:sv|st|se|sr|sp|sip|spr|sig)=", re.IGNORECASE)
_SIGNATURE = re.compile(r"(?:\b|(?<=u0026))(sig|signature|sharedaccesssignature)=[^&\s\"'<>\\]+", re.IGNORECASE)
# Group 2 is how deep the quotes are wrapped. A run of backslashes before a quote closes the value if it is group 2 and
# any number of wrapped backslashes.
_CLOSING = r"(?:\2\2\\\\)*+\2\""
_FIELD = re.compile(
    r"((\\{0,15}+)\"(?:protectedSettings|encryptedSettings|password|secret|accountKey|storageAccountKey)\2\""
    rf"\s{{0,8}}:\s{{0,8}})\2\"(?:[^\"\\]++|\\++(?!\")|(?!{_CLOSING})\\++\")*+(?:{_CLOSING})?",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(authorization\s{0,4}[:=]\s{0,4}(?:(?:bearer|basic|sharedkey)\s{1,4})?)[^\s\"',;\\]+", re.IGNORECASE
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----"
    r"(?:(?!-----END)[^\"\\]|\\++[^\"\\])*+(?:-----END [A-Z ]{0,20}PRIVATE KEY-----)?"
)


def redact(text: str, mark: str = MARK) -> str:
    """`text` with its secrets replaced by `mark` (no backslash in it)."""
    text = _QUERY.sub(lambda query: "?" + mark if _SAS_PARAMETER.search(query[0]) else query[0], text)
    text = _SIGNATURE.sub(r"\1=" + mark, text)
    text = _FIELD.sub(r'\1\2"' + mark + r'\2"', text)
    text = _AUTHORIZATION.sub(r"\1" + mark, text)
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(mark, text)
    return text
