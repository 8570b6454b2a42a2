"""``docs/operator-settings.md``, from the model of settings: ``make docs`` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from .operator_settings import Setting, every_setting
from .setting_sources import CONFIG_VARIABLE

_BEGINNING = f"""# Settings of the operator

<!-- Written by `make docs` from operator/scheduledjob/kube/settings/operator_settings.py. -->

`scheduledjob operator` takes each setting from a flag, a variable or a file. Flags win over variables, variables over
the file, the file over the defaults. `--config FILE` or the variable `{CONFIG_VARIABLE}` names the file, in YAML:

```yaml
instance: production
namespaces: [team-a, team-b]
lease: 20s
```

Lengths of time are written `1h30m` or `45s`, never as a bare number. Lists are separated by commas; a flag for a list
may also be given several times, and in the file a YAML list will do. A variable that is empty counts as not set, and so
does a key without a value. `BOOLEAN` flags stand alone: `--plugins`, or `--no-plugins` against a file that says
otherwise.

What is wrong ends the operator at once with a message that names the place, what is wrong there and what is allowed. A
flag, a key or a variable with the prefix `SJOB_` that nobody knows is wrong, too; variables that Kubernetes sets for a
Service (`SJOB_..._SERVICE_HOST`) are passed over.
"""


def settings_page() -> str:
    return "\n".join([_BEGINNING, *map(_section, every_setting())])


def _section(setting: Setting) -> str:
    metavar = setting.kind.metavar.replace("|", "\\|")  # it stands in a table
    return f"""## {setting.key}

{setting.says}

| | |
|---|---|
| Flag | `{setting.flag}`{"" if setting.kind.switch else f" `{metavar}`"} |
| Variable | `{setting.variable}` |
| Allowed | {setting.kind.allowed} |
| Default | {setting.default_shown} |
"""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page(), encoding="utf-8")
