"""Workers on a Ray cluster: a local one of two nodes, with the processes that two machines have."""

import json
import socket

import pytest

from merlin_hf.comparison import ConfigError, compare
from merlin_hf.comparison.store import RunStore
from merlin_hf.comparison.workers import Place
from tests.comparison.conftest import read
from tests.comparison.test_compare import files
from tests.comparison.test_resume import without_times
from tests.comparison.test_workers import cache_of_workers, own  # noqa: F401  fixtures
from tests.examples.conftest import ROOT


ray = pytest.importorskip("ray", reason="Ray is not installed")

from ray.cluster_utils import Cluster  # noqa: E402

from merlin_hf.comparison.ray_workers import cluster_places  # noqa: E402


pytestmark = pytest.mark.slow  # several processes
MEMORY = 80 * 2**20  # the least that a node takes


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def cluster(monkeypatch, own, cache_of_workers):  # noqa: F811
    """Two nodes, and the port for those who are not on one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port = free_port()
    node = {"num_cpus": 1, "object_store_memory": MEMORY}
    head = {**node, "include_dashboard": False, "ray_client_server_port": port}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    try:
        nodes.add_node(**node)
        nodes.wait_for_nodes()
        yield port
    finally:
        ray.shutdown()
        nodes.shutdown()


def test_two_nodes_end_with_the_results_of_one_process(config, cluster, own, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Killed, failing, interrupted and from afar; in one test, as a cluster takes long to start."""
    config = {**config, "methods": ["finetune", "linear_probe", "merlin", "mortal", "luckless"]}
    two = compare(config, workers="ray", output_dir=str(tmp_path / "two"))
    told = capsys.readouterr().err
    assert "2 workers on Ray" in told and own.exists()
    assert "Warning: The worker of mortal, seed 1, test was lost: ActorDiedError: " in told
    assert "in compute_loss" in (tmp_path / "two" / "errors" / "luckless.txt").read_text()
    one = compare(config, output_dir=str(tmp_path / "one"), show_progress=False)
    assert two.table == one.table and two.failed == one.failed == ["luckless"]
    assert without_times(two.summary) == without_times(one.summary)
    assert set(files(tmp_path / "two")) == set(files(tmp_path / "one"))
    for name in files(tmp_path / "one"):
        results = [json.loads(next((tmp_path / folder).rglob(name)).read_text()) for folder in ("one", "two")]
        assert results[0]["metrics"] == results[1]["metrics"]
    assert not ray.is_initialized(), "it leaves the cluster again"

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunStore, "put", interrupted)
        compare(config, workers="ray", output_dir=str(tmp_path / "third"), show_progress=False)
    from_afar = {**config, "methods": ["linear_probe", "merlin"], "workers": f"ray://127.0.0.1:{cluster}"}
    third = compare(from_afar, output_dir=str(tmp_path / "third"), show_progress=False)
    scores = {method["label"]: method["scores"] for method in one.summary["methods"] if "scores" in method}
    assert all(method["scores"] == scores[method["label"]] for method in third.summary["methods"])


def test_no_cluster(config, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"`workers='ray'` finds no Ray cluster: .*`ray start --head` starts one"):
        compare(read(config, workers="ray"), show_progress=False)


def node(name, alive=True, **resources):
    return {"NodeID": name, "Alive": alive, "Resources": {kind.upper(): float(n) for kind, n in resources.items()}}


def test_places_of_a_cluster():
    cpus = [node("a", cpu=8), node("b", cpu=4), node("dead", alive=False, cpu=8), node("head", memory=1)]
    assert cluster_places(cpus, True) == [Place(8, None, "a"), Place(4, None, "b")]
    mixed = [*cpus, node("c", cpu=8, gpu=2), node("d", cpu=1, gpu=4)]
    gpus = [Place(4, "0", "c"), Place(4, "1", "c"), Place(1, "0", "d")]
    assert cluster_places(mixed, True) == gpus, "a GPU each, and no runs on machines without"
    assert [place.gpu for place in cluster_places(mixed, False)] == [None] * 4
    assert cluster_places([], True) == []
