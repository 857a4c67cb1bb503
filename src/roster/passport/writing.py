"""Plain values to text: JSON that is YAML as well, and YAML that every reader takes the same way."""

from __future__ import annotations

import json
import re
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode

# YAML 1.1 refuses these raw (DEL, C1, noncharacters), or folds them as line breaks (NEL, LS, PS), or takes
# them for a BOM.
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_EXPONENT = re.compile(r"[0-9][eE][+-]?[0-9]")
_STRING_OR_EXPONENT = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?[eE][+-]?[0-9]+')


def to_json(value: Any) -> bytes:
    """Return `value` as one line of JSON, UTF-8, that `yaml.safe_load` reads as the same value.

    YAML 1.1 differs from JSON in three places, each avoided: surrogate escapes (so no ASCII-only output),
    characters that YAML does not print (escaped), and numbers with an exponent (`1e-07` is text to it,
    `1.0e-07` is a number).
    """
    text = _encode(value)
    if _NOT_IN_YAML.search(text):
        text = _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    if _EXPONENT.search(text):
        text = _STRING_OR_EXPONENT.sub(_dotted, text)
    return text.encode()


def _dotted(found: re.Match[str]) -> str:
    token = found.group()
    if token[0] == '"':
        return token
    digits, exponent = re.split("[eE]", token)
    digits = digits if "." in digits else digits + ".0"
    return f"{digits}e{exponent if exponent[0] in '+-' else '+' + exponent}"


_dumper: Any = None


def to_yaml(value: Any) -> str:
    """Return `value` as block-style YAML that YAML 1.1 readers, 1.2 readers and this package read alike."""
    import yaml

    return yaml.dump(
        value, Dumper=_get_dumper(), allow_unicode=True, sort_keys=False, default_flow_style=False, width=110
    )


def _get_dumper() -> Any:
    global _dumper
    if _dumper is None:
        import yaml

        from roster.passport.yaml_text import NUMBER

        # The Python emitter, not libyaml's: output for people is small, and it knows every printable
        # character.
        class Dumper(yaml.SafeDumper):
            """Quotes also what only YAML 1.2 takes for a number (`1e5`), and never writes aliases."""

            def ignore_aliases(self, data: Any) -> bool:
                return True

        Dumper.add_implicit_resolver(
            "tag:yaml.org,2002:float", re.compile(f"(?:{NUMBER.pattern})$"), list("-0123456789")
        )
        Dumper.add_representer(str, _text)
        _dumper = Dumper
    return _dumper


def _text(dumper: Any, text: str) -> Any:
    # Only double quotes carry control characters and line separators; a block is what people like for many
    # lines.
    if _NOT_IN_YAML.search(text) or not text.replace("\n", "").isprintable():
        style = '"'
    elif "\n" in text and not text[:1].isspace() and " \n" not in text:
        style = "|"
    else:
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
