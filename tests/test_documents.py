"""The pages that show code run it; what they print must be what they say."""

from pathlib import Path

import pytest

from tests.helpers.markdown import executed

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["docs/walkthrough.md", "README.md"])
def test_the_page_prints_what_it_says(page: str, request: pytest.FixtureRequest) -> None:
    path = ROOT / page
    result = executed(path)
    if request.config.getoption("--update-golden"):
        path.write_text(result)
    assert result == path.read_text()
