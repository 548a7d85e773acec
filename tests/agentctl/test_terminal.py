"""What is printed is what was said: no text is taken for markup or for a picture."""

import pytest
from rich.table import Table

from agentctl.render import Terminal


@pytest.mark.parametrize("text", ["7a:cd:6f:c5:d1:0d", "[bold]not bold[/bold]", "[/]", ":warning:"])
def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    table = Table(box=None)
    table.add_column("MAC")
    table.add_row(text)
    terminal = Terminal()
    terminal.print(table)
    terminal.print(text)
    assert capsys.readouterr().out.count(text) == 2
