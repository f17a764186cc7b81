"""YAML with places: every value knows its file, line and column, and keeps the text as it was written.

Reading nodes instead of values leaves `1.10` and `yes` what they are, whatever a YAML version makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lockstep.errors import SpecError

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class YamlNode:
    """One value of a YAML file. Each reader raises SpecError with line and column if it isn't of its kind."""

    path: Path
    node: yaml.Node

    @property
    def where(self) -> str:
        """The place in words: `environment.yml, line 3, column 5`."""
        mark = self.node.start_mark
        return f"{self.path}, line {mark.line + 1}, column {mark.column + 1}"

    @property
    def is_mapping(self) -> bool:
        import yaml

        return isinstance(self.node, yaml.MappingNode)

    def error(self, message: str, remedy: str) -> SpecError:
        """Return the SpecError that says `message` of this place."""
        return SpecError(f"{self.where}: {message}.", remedy)

    def text(self, what: str) -> str:
        """Return a scalar's text as it was written."""
        import yaml

        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag.endswith(":null"):
            raise self.error(f"{what} must be text", "Write one value there.")
        return str(self.node.value)

    def sequence(self, what: str) -> list[YamlNode]:
        """Return the entries of a list; nothing at all is an empty list."""
        import yaml

        if self.node.tag.endswith(":null"):
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"{what} must be a list", "Begin each entry with `- `.")
        return [YamlNode(self.path, child) for child in self.node.value]

    def mapping(self, what: str) -> dict[str, YamlNode]:
        """Return the values by key; nothing at all is an empty mapping, a key that comes twice an error."""
        import yaml

        if self.node.tag.endswith(":null"):
            return {}
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(
                f"{what} must be `key: value`", "See conda's documentation of environment files."
            )
        found: dict[str, YamlNode] = {}
        for key_node, value in self.node.value:
            key = YamlNode(self.path, key_node).text("a key")
            if key in found:
                raise YamlNode(self.path, key_node).error(
                    f"the key `{key}` is there twice", "Keep one of them."
                )
            found[key] = YamlNode(self.path, value)
        return found


def read_yaml(path: Path) -> YamlNode:
    """Read a file's only document. Raises SpecError with line and column where it isn't YAML."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} can't be read: {error}.", "Check `environment` in invoke.yaml.") from error
    try:
        node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = f": {error.problem}" if error.problem else ""
        raise SpecError(
            f"{path}{where}: this isn't YAML{problem}.", "Mend the line, or the one above it."
        ) from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: this isn't YAML: {error}.", "Save the file as plain UTF-8 text.") from error
    if node is None:
        raise SpecError(f"{path} is empty.", "Give it `channels:` and `dependencies:`.")
    return YamlNode(path, node)
