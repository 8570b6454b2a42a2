"""Writes ``docs/operator-settings.md`` from the settings. ``make docs`` runs this."""

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

Durations are written as `1h30m` or `45s`, never as a number without a unit. Items of lists are separated by commas. You
can also repeat the flag of a list, or write a YAML list in the file. An empty variable or a key without a value is not
set. `BOOLEAN` flags have no value: `--plugins`, or `--no-plugins` to override the file.

If a setting is invalid, the operator exits at once with a message that says where it is, what is wrong and what is
allowed. Unknown flags, keys and variables with the prefix `SJOB_` are invalid, too, except for the variables that
Kubernetes sets for a Service (`SJOB_..._SERVICE_HOST`).
"""


def settings_page() -> str:
    return "\n".join([_BEGINNING, *map(_section, every_setting())])


def _section(setting: Setting) -> str:
    metavar = setting.type.metavar.replace("|", "\\|")  # escaped for the table
    return f"""## {setting.key}

{setting.description}

| | |
|---|---|
| Flag | `{setting.flag}`{"" if setting.type.switch else f" `{metavar}`"} |
| Variable | `{setting.variable}` |
| Allowed | {setting.type.allowed} |
| Default | {setting.default_text} |
"""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(settings_page(), encoding="utf-8")
