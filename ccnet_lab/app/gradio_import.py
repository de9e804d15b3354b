"""gradio is imported after this without the interface files that it writes, and sooner.

At each start gradio parses the source of its forty component classes and writes their events into
`.pyi` files beside them, for editors: a sixth of the time until the app is up.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE, WRITER = "gradio.component_meta", "create_or_modify_pyi"


class _WithoutInterfaces(MetaPathFinder):
    """Finds `MODULE` only, whose function that writes the files then does nothing."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """As `MetaPathFinder.find_spec`."""
        spec: ModuleSpec | None = PathFinder.find_spec(name, path) if name == MODULE else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executed(module: ModuleType) -> None:
            execute(module)
            if hasattr(module, WRITER):
                setattr(module, WRITER, lambda *_: None)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent unasked
if "gradio" not in sys.modules:
    sys.meta_path.insert(0, _WithoutInterfaces())
