"""The report as a page: its content without a browser, escapes, and its size."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from written_runs import write_run, write_sweep

from fedlit.reports.page import page_data as page_data_module
from fedlit.reports.page.elements import element, script_json, to_html
from fedlit.reports.page.page import to_page
from fedlit.reports.page.page_data import kept_rounds, page_data
from fedlit.reports.page.partitions import partition_pictures
from fedlit.reports.render.cells import cell_number, format_cell
from fedlit.reports.result import make_report

HOSTILE = "</script><script>alert(1)</script><!-- \u2028 &amp; \" ' <img src=x onerror=alert(2)>"
PARTITION = {
    "clients": 3,
    "samples": 12,
    "sizes": [4, 4, 4],
    "label_counts": [[4, 0], [2, 2], [0, 4]],
    "mean_total_variation": 0.33,
}


class Page(HTMLParser):
    """The elements and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.scripts, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input"):
            self._open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    @property
    def data(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A report on a sweep with failures, partitions and spread, and its page."""
    folder = write_sweep(tmp_path_factory.mktemp("sweep"))
    for path in folder.iterdir():
        (path / "partition.json").write_text(json.dumps(PARTITION))
    failed = write_run(
        folder / "failed", choices={"algorithm": "fedavg"}, seed=9, unfinished=True, partition__alpha=0.1
    )
    (failed / "failure.json").write_text(json.dumps({"reasons": ["out of memory"]}))
    (failed / "job.json").write_text(json.dumps({"overrides": ["algorithm=fedavg", "seed=9"], "call": "1"}))
    half = write_run(folder / "half", choices={"algorithm": "fedavg"}, seed=8, unfinished=True, partition__alpha=0.1)
    (half / "command.json").write_text(json.dumps({"overrides": [], "flags": []}))
    report = make_report([folder], "algorithm=fedavg")
    return report, Page(to_page(report, "python -m fedlit.report sweep")), folder


def test_page_loads_nothing_and_runs_its_own_script_only(sweep):
    text = to_page(sweep[0], "")
    page = Page(text)
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "src")}
        if "href" in attributes:
            assert attributes["href"].startswith("#") or (tag, attributes["href"]) == ("link", "data:,")
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", text)
    (policy,) = (one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for kind, content in (("style", style), ("script", page.scripts[1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_long_seeds_have_all_digits(tmp_path):
    write_run(tmp_path / "run", seed=123456789012345678901234567890)
    assert ">123456789012345678901234567890</td>" in to_page(make_report([tmp_path]), "")


def test_page_is_the_same_for_the_same_report(sweep):
    report, _, folder = sweep
    assert to_page(report, "a") == to_page(make_report([folder], "algorithm=fedavg"), "a")


def test_ids_are_unique_and_links_lead_to_them(sweep):
    page = sweep[1]
    ids = [one["id"] for _, one in page.elements if "id" in one]
    assert len(ids) == len({*ids})
    links = {one["href"][1:] for tag, one in page.elements if tag == "a"}
    assert links <= {*ids}
    assert {"results", "curves", "trade-off", "costs", "failures", "partitions", "configuration", "runs"} <= links
    assert {name for name, *_ in page.data["ranges"]} <= {*ids}
    assert {one["id"] for one in page.data["partitions"]} <= {*ids}


def test_tables_have_the_numbers_of_the_report_with_values_to_sort_by(sweep):
    report, page, _ = sweep
    assert "python -m fedlit.report sweep" in page.texts
    cells = [one.get("data-value") for tag, one in page.elements if tag == "td"]
    assert "0.723" in cells
    rows = [one for tag, one in page.elements if tag == "tr" and one.get("data-text")]
    labels = [group["group"] for group in report.values["groups"]]
    assert {row["data-text"]: row.get("data-group") for row in rows if row["data-text"] in labels} == {
        label: str(i) for i, label in enumerate(labels)
    }


@pytest.mark.parametrize("mean", [0.0, 3.0, 0.1234, 12.3456, 123456.0, 2.5e9, -0.5, 2.5e30])
@pytest.mark.parametrize(("half", "ends"), [(None, False), (0.25, False), (0.25, True)])
@pytest.mark.parametrize("unit", ["", "B", "s"])
def test_numbers_of_cells_are_read_back(mean, half, ends, unit):
    low, high = (None, None) if half is None else (mean - half, mean + half)
    text = format_cell({"mean": mean, "half": half, "low": low, "high": high}, ends, unit=unit)
    assert cell_number(text) == pytest.approx(mean, rel=0.06, abs=0.06)


@pytest.mark.parametrize(
    "text", ["2e+3x", "-", "best", "algorithm=fedavg", "[0.1, 0.2]", "none", "3x", "1.0.0", "", "2 planned, 1 x"]
)
def test_only_numbers_are_read_from_cells(text):
    assert cell_number(text) == {"2 planned, 1 x": 2.0}.get(text)


def test_skipped_runs_have_their_commands(sweep):
    _, page, folder = sweep
    for text in (
        "out of memory",
        f"python -m fedlit.train algorithm=fedavg seed=9 hydra.run.dir={folder}/failed",
        f"python -m fedlit.train resume={folder}/half",
    ):
        assert text in page.texts


@pytest.mark.parametrize(
    "override",
    [
        "model._target_=os.system",
        "+a.b._target_=x",
        "--config-dir=/x",
        "hydra.run.dir=/x",
        "x='${oc.env:HOME}'",
        r"x=$\{a}",
    ],
)
def test_command_of_a_strange_job_is_not_shown(tmp_path, override):
    failed = write_run(tmp_path / "failed", unfinished=True)
    (failed / "failure.json").write_text(json.dumps({"reasons": ["no"]}))
    (failed / "job.json").write_text(json.dumps({"overrides": ["seed=1", override], "call": "1"}))
    write_run(tmp_path / "a")
    assert "fedlit.train" not in to_page(make_report([tmp_path]), "")


def test_configuration_is_a_difference_from_the_baseline(sweep):
    text = " ".join(sweep[1].texts)
    assert "algorithm=fedprox partition.alpha=0.1: 1 key differ" in text.replace("differs", "differ")
    assert "differences from algorithm=fedavg partition.alpha=0.1" in text
    assert "algorithm.proximal 0.0 0.01" in text


def test_data_has_each_run_with_its_columns_and_curves(sweep):
    report, page, _ = sweep
    data = page.data
    assert data["groups"] == [{"label": group["group"]} for group in report.values["groups"]]
    run = next(run for run in data["runs"] if (run["group"], run["seed"]) == (0, 2))
    assert run["curves"]["test/accuracy"] == [0.5, 0.72, 0.61]
    assert run["curves"]["comm/up_bytes"] == 1000  # a constant is stored once
    assert run["axes"] == {"rounds": [1, 2, 3], "bytes": [3000, 6000, 9000], "wall_s": [0.5, 1, 1.5]}
    assert run["columns"]["comm/up_bytes"] == 3000
    assert data["quantiles"] == {"2": pytest.approx(12.7062, abs=1e-4), "3": pytest.approx(4.30265, abs=1e-5)}
    columns = {one["name"]: one for one in data["columns"]}
    assert columns["bytes"]["unit"] == "B"
    assert [columns["test/accuracy"][key] for key in ("mode", "low", "high")] == ["max", 0, 1]
    assert data["metric"] in data["metrics"]
    assert "cohort" not in data["metrics"]


def test_hostile_texts_are_texts(tmp_path):
    folder = tmp_path / "<script>alert(3)<"
    for seed in (1, 2):
        for value in (HOSTILE, "b"):
            rounds = {i: {HOSTILE: 1.0 * i} for i in (1, 2, 3)}
            write_run(
                folder / f"{seed}{value[0]}".replace("/", ""), [0.1, 0.2, 0.3], rounds=rounds, seed=seed, new=value
            )
    failed = write_run(folder / "<b>", unfinished=True)
    (failed / "failure.json").write_text(json.dumps({"reasons": [HOSTILE, "\x1b[2J\u202e"]}))
    (failed / "job.json").write_text(json.dumps({"overrides": [HOSTILE], "call": HOSTILE}))
    report = make_report([folder], plots=[f"{HOSTILE}:test/accuracy"])
    text = to_page(report, HOSTILE)
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert {tag for tag, _ in page.elements} & {"img", "iframe", "object", "svg"} == set()
    assert not re.search(r"<!--|<img|<script>alert|\x1b|\u202e|\u2028", text)
    assert HOSTILE.replace("\u2028", "\\u2028") in " ".join(page.texts)
    assert HOSTILE in page.data["metrics"]
    assert any(HOSTILE[:20] in group["label"] for group in page.data["groups"])


def test_elements_escape_texts_and_attributes():
    node = element(
        "a",
        {"title": '"><b>', "hidden": True, "href": None, "id": False},
        "<i>&",
        None,
        element("input", {"value": "'"}),
    )
    assert to_html(node) == '<a title="&quot;&gt;&lt;b&gt;" hidden>&lt;i&gt;&amp;<input value="&#x27;"></a>'


def test_script_json_is_json_without_signs_of_html():
    value = {HOSTILE: [HOSTILE, 1.5, None]}
    text = script_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_a_page_that_is_watched_reloads_itself(sweep):
    assert 'http-equiv="refresh" content="10"' in to_page(sweep[0], "", refresh_s=10.0)
    assert "refresh" not in to_page(sweep[0], "").partition("<style>")[0]


def test_long_curves_keep_measured_rounds_among_them_the_first_and_the_last():
    curve = np.full(1000, np.nan)
    curve[4::5] = 0.5
    kept = kept_rounds(curve, 50)
    assert len(kept) == 50
    assert np.isfinite(curve[kept]).all()
    assert (kept[0], kept[-1]) == (4, 999)
    assert kept_rounds(curve[:50], 50).tolist() == [*range(50)]
    assert kept_rounds(np.full(100, np.nan), 50).tolist() == []


def test_page_of_many_long_runs_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(page_data_module, "MAX_NUMBERS", 2000)
    generator = np.random.default_rng(0)
    for seed in range(4):
        write_run(tmp_path / f"{seed}", generator.random(200).tolist(), seed=seed)
    data = page_data(make_report([tmp_path]))
    sizes = {len(values) for run in data["runs"] for values in run["curves"].values() if isinstance(values, list)}
    assert max(sizes) <= 2000 / (4 * (len(data["metrics"]) + len(data["axes"])))
    assert all(run["axes"]["bytes"][-1] == 600_000 for run in data["runs"])


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "not JSON",
        '{"sizes": []}',
        '{"label_counts": [[1], [2, 3]], "clients": 2, "samples": 3}',
        '{"label_counts": [["<script>"]], "clients": 1, "samples": 3, "mean_total_variation": 0}',
        '{"sizes": [1e300], "clients": 1, "samples": 3}',
        '{"sizes": [1, 2], "clients": {"a": 1}, "samples": 3}',
    ],
)
def test_another_partition_file_is_no_picture(tmp_path, content):
    write_run(tmp_path / "a")
    (tmp_path / "a" / "partition.json").write_text(content)
    assert partition_pictures(make_report([tmp_path]).groups) == []


def test_equal_partitions_are_one_picture_and_large_ones_are_cut(tmp_path):
    for value in "abc":
        write_run(tmp_path / value, new=value)
        (tmp_path / value / "partition.json").write_text(json.dumps(PARTITION))
    counts = np.arange(200 * 30).reshape(200, 30).tolist()
    large = {**PARTITION, "clients": 1000, "label_counts": counts}
    (tmp_path / "c" / "partition.json").write_text(json.dumps(large))
    first, second = partition_pictures(make_report([tmp_path]).groups)
    assert first["groups"] == ["new=a", "new=b"]
    assert (first["counts"], first["classes"]) == (PARTITION["label_counts"], ["0", "1"])
    assert (len(second["counts"]), len(second["classes"])) == (50, 20)
    assert "1,000 clients, 50 shown" in second["title"]
    sizes = {"clients": 3, "samples": 9, "sizes": [4, 3, 2]}
    (tmp_path / "c" / "partition.json").write_text(json.dumps(sizes))
    assert partition_pictures(make_report([tmp_path]).groups)[1]["counts"] == [[4], [3], [2]]
