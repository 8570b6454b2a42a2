"""Draw the terminal in README: ``python -m docs.tools.terminal FILE`` draws what ``make demo`` shows.

The program runs in a pseudoterminal for some seconds and is stopped with Ctrl-C. rich draws the last frame before that.
The picture shows a real run, so it differs each time.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[2]
COLUMNS, ROWS = 100, 28
SECONDS = 24.0
"""Long enough for a retry to succeed, a slot to be skipped and a one-shot to finish."""
_MOVES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-ln-z])")
_PICTURE = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
  <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
"""Like rich's own template, but without fonts from the network."""


def watched(command: list[str], seconds: float) -> str:
    """Run a program in a terminal, press Ctrl-C after some seconds, and return what it wrote before that."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)  # noqa: S606  # the program is ours, and a shell is not needed
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written, interrupt_at, interrupted = b"", time.monotonic() + seconds, False
    while True:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # the program has exited
                break
            if not part:
                break
            if not interrupted:
                written += part
        elif not interrupted and time.monotonic() >= interrupt_at:  # silent for a moment: the frame is complete
            os.write(terminal, b"\x03")
            interrupted = True
        if time.monotonic() > interrupt_at + 30:
            os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return written.decode(errors="replace")


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows, with colours. Supports the cursor movements of a live table."""
    lines = [""]
    row = 0
    for part in re.split(r"(\r\n|\r|\n|\x1b\[[0-9;?]*[A-Za-ln-z])", written):
        move = _MOVES.fullmatch(part)
        if part in {"\n", "\r\n"}:
            row += 1
            if row == len(lines):
                lines.append("")
        elif part == "\r":
            pass  # what follows erases the line or starts an empty one
        elif move is None:
            lines[row] += part
        elif move[2] == "A":
            row = max(0, row - int(move[1] or 1))
        elif move[2] == "K":
            lines[row] = ""
    return lines


def picture(prompt: str, lines: list[str]) -> str:
    """Draw the lines below a prompt."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), prompt))
    for line in lines:
        console.print(Text.from_ansi(line.rstrip()), soft_wrap=True)
    return console.export_svg(title="scheduledjob", theme=MONOKAI, code_format=_PICTURE, unique_id="terminal")


def main() -> None:
    program = str(Path(sys.executable).with_name("scheduledjob"))
    os.chdir(ROOT)
    manifests = [str(path) for path in sorted(Path("examples").glob("*.yaml"))]
    lines = screen(watched([program, "run", "-f", *manifests], SECONDS))
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    Path(sys.argv[1]).write_text(picture("make demo", lines), encoding="utf-8")


if __name__ == "__main__":
    main()
