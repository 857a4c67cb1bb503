"""Passports: what a node declares, read from hostile text, checked in full, and matched by selectors."""

from roster.passport.capability import Capability
from roster.passport.document import NodePassport
from roster.passport.fields import API_VERSION, KIND, STATES, json_schema
from roster.passport.files import FileReport, validate_files
from roster.passport.selector import Selector
from roster.passport.validator import SchemaValidator
from roster.passport.version import VersionRange

__all__ = [
    "API_VERSION",
    "KIND",
    "STATES",
    "Capability",
    "FileReport",
    "NodePassport",
    "SchemaValidator",
    "Selector",
    "VersionRange",
    "json_schema",
    "validate_files",
]
