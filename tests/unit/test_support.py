"""The table of operators is what the code says."""

from pathlib import Path

from blockfuse.build.emitters import EMITTERS
from blockfuse.frontend.stages import STAGES
from blockfuse.tools.support import support

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == support(), "make support"


def test_attributes_and_the_importer_are_on_it():
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in support().splitlines()}
    assert rows["DepthToSpace"][2] == "blocksize, mode (DCR, CRD)"
    assert rows["MatMulInteger"][3] == "through TVM's importer"
    assert "through TVM's importer" not in rows["Conv"][3]
    assert "rewritten" in rows["QLinearConv"][3]


def test_every_operator_is_on_it():
    page = support()
    assert not [kind for kind in {*EMITTERS, *STAGES} if f"\n| {kind} |" not in page]
