"""Import everything a wheel holds, from a folder that holds nothing else.

``bare`` says that no extra is installed: then the client must work, and what needs an extra must
name it. A library file that imports ``tasks`` or ``config`` fails here.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import provider_uploads
from provider_uploads.errors import MissingDependencyError

bare = sys.argv[1:] == ["bare"]
missing = []
for module in pkgutil.walk_packages(provider_uploads.__path__, "provider_uploads."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except MissingDependencyError as error:
        missing.append(f"{module.name}: {error}")
    except ModuleNotFoundError as error:
        missing.append(f"{module.name}: {error.name}")

print(f"{'bare' if bare else 'with extras'}: {len(missing)} modules need an extra")
assert bare or not missing, missing
if bare:
    needing = {line.split(":")[0].removeprefix("provider_uploads.") for line in missing}
    needing = {name for name in needing if not name.startswith("emulator")}
    assert needing == {
        "notifications.webhook",
        "providers.batches",
        "providers.error_mapping",
        "providers.file_pages",
        "providers.gemini",
        "providers.http",
        "providers.multipart",
        "providers.resumable",
        "providers.wire",
        "sources.https",
        "sources.network",
    }, needing
    assert any("pip install 'provider-uploads[google]'" in line for line in missing), missing
