"""Names, aliases, paths and user files become records; every record of the catalog keeps its contract."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from profiles import catalog
from profiles.catalog import BadFile, UnknownName
from profiles.lookup import key
from profiles.model import LayerList, TransformerShape
from profiles.units import GIGA

NODES = catalog.names("nodes")
ACCELERATORS = catalog.names("accelerators")
EVERYTHING = [(kind, name) for kind in catalog.KINDS for name in catalog.names(kind)]

Write = Callable[[str, str], Path]

CLUSTER_FILE = """
name = "office"
source = "a test"
accelerator = "l40s"
num_devices = 16

[[tiers]]
name = "slots"
link = "pcie-4"
topology = "pcie"
num_devices = 4

[[tiers]]
name = "lab"
link = "ethernet"
topology = "fat-tree"
num_devices = 16
gb_per_second = 2.5
"""


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_record_loads_under_the_name_of_its_file(kind: str, name: str) -> None:
    record = catalog.load(kind, name)
    assert record.name == name.rpartition("/")[2]
    assert record.source.strip()


@pytest.mark.parametrize("kind", ["accelerators", "nodes", "clusters", "links"])
def test_aliases_point_at_one_record(kind: str) -> None:
    claims = [
        (key(alias), name)
        for name in catalog.names(kind)
        for alias in {name, *getattr(catalog.load(kind, name), "aliases", ())}
    ]
    owners: dict[str, set[str]] = {}
    for alias, name in claims:
        owners.setdefault(alias, set()).add(name)
    assert {alias: names for alias, names in owners.items() if len(names) > 1} == {}
    assert all(catalog.aliases(kind)[alias] == name for alias, name in claims if alias != name)


def test_a_cluster_name_hides_no_node() -> None:
    clusters = {key(name) for name in (*catalog.names("clusters"), *catalog.aliases("clusters"))}
    nodes = {key(name) for name in (*NODES, *catalog.aliases("nodes"))}
    assert clusters.isdisjoint(nodes | set(ACCELERATORS) | set(catalog.aliases("accelerators")))


@pytest.mark.parametrize("name", NODES)
def test_node_contract(name: str) -> None:
    node = catalog.node(name)
    assert catalog.accelerator(node.accelerator).name == node.accelerator
    assert node.tiers[-1].num_devices is None, "nodes are joined by a network of any size"
    for tier in node.tiers:
        assert catalog.link(tier.link).name == tier.link
    for field in node.unverified:
        value: object = node
        for part in field.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)  # type: ignore[index]
        assert value is not None or field.endswith("bytes_per_second")


@pytest.mark.parametrize("name", NODES)
def test_every_node_makes_clusters(name: str) -> None:
    per_node = catalog.node(name).num_devices
    for num_devices in (1, per_node, 8 * per_node):
        cluster = catalog.cluster(name, num_devices)
        assert (cluster.name, cluster.num_devices) == (name, num_devices)
        assert cluster.tiers[-1].num_devices == num_devices
        assert cluster.source == catalog.node(name).source
        for tier in cluster.tiers:
            assert 0.1 * GIGA <= tier.bytes_per_second <= 2000 * GIGA
            assert 0 <= tier.latency_seconds <= 1e-4
            assert tier.curves.link_class == tier.link_class
    assert catalog.cluster(name).num_devices % per_node == 0


@pytest.mark.parametrize("name", catalog.names("clusters"))
def test_every_cluster_has_its_stated_size_and_shrinks_to_one_device(name: str) -> None:
    assert catalog.cluster(name).num_devices > 1
    assert catalog.cluster(name, 1).num_devices == 1


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_accelerator_is_a_cluster(name: str) -> None:
    assert catalog.node(name).accelerator == name
    assert catalog.cluster(name, 1).accelerator.name == name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("H100", "h100-sxm"), ("h100_sxm", "h100-sxm"), ("H100-SXM-80GB", "h100-sxm"),
        ("A100", "a100-sxm-80gb"), ("A100-80GB", "a100-sxm-80gb"), ("A100-40GB", "a100-sxm-40gb"),
        ("A100-SXM-80GB (Azure NDm A100 v4)", "a100-sxm-80gb"), ("V100-SXM2-32GB", "v100-sxm-32gb"),
        ("H100-96GB-HBM2e-500W (Grand Teton)", "h100-96gb-hbm2e"), ("T4-16GB (AWS g4dn.12xlarge)", "t4"),
        ("b200_sxm", "b200-sxm"), ("GB200 (per GPU)", "gb200"), ("rtx_pro_6000_server", "rtx-pro-6000"),
        ("TPU-v5p", "tpu-v5p"), ("TPU v6e (Trillium)", "tpu-v6e"), ("  mi300x ", "mi300x"),
    ],
)  # fmt: skip
def test_names_people_type(typed: str, name: str) -> None:
    assert catalog.accelerator(typed).name == name


@given(name=st.sampled_from(ACCELERATORS), data=st.data())
def test_case_and_separators_are_forgiven(name: str, data: st.DataObject) -> None:
    separator = data.draw(st.sampled_from(["-", "_", " ", " - "]))
    typed = "".join(data.draw(st.sampled_from([c.upper(), c])) for c in name).replace("-", separator)
    assert catalog.accelerator(typed).name == name


@given(st.text())
def test_any_text_is_a_known_name_or_an_unknown_one(text: str) -> None:
    for find in (catalog.accelerator, catalog.node, catalog.link, catalog.software, catalog.model, catalog.cluster):
        with contextlib.suppress(UnknownName, BadFile):
            find(text)


@pytest.mark.parametrize(
    ("find", "typed", "sentence"),
    [
        (catalog.accelerator, "h1000", "no accelerator is called 'h1000'; close names: .*h100-sxm"),
        (catalog.cluster, "dgx-h1000", "no cluster is called 'dgx-h1000'; close names: dgx-h100"),
        (catalog.node, "p5.49xlarge", "no node is called 'p5.49xlarge'; close names: p5.48xlarge"),
        (catalog.model, "llama3-71b", "no model is called 'llama3-71b'; close names: .*llama3-70b"),
        (catalog.link, "zzzzzzzzzzz", "no link is called 'zzzzzzzzzzz'; `meshwise profiles list links` shows all"),
        (catalog.names, "toys", "kind: 'toys' is not one of accelerators, nodes"),
    ],
)
def test_an_unknown_name_is_answered_with_neighbours(find: object, typed: str, sentence: str) -> None:
    with pytest.raises(UnknownName, match=sentence):
        find(typed)  # type: ignore[operator]


def test_tiers_of_the_usual_clusters() -> None:
    cluster = catalog.cluster("dgx-h100", num_devices=64)
    assert [(tier.name, tier.num_devices) for tier in cluster.tiers] == [("nvlink", 8), ("infiniband", 64)]
    assert [tier.bytes_per_second for tier in cluster.tiers] == [450 * GIGA, 50 * GIGA]
    assert cluster.tiers[0].in_network_reduction
    assert [tier.num_devices for tier in catalog.cluster("dgx-a100", 1024).tiers] == [8, 1024]
    assert [tier.num_devices for tier in catalog.cluster("gb200-nvl72", 576).tiers] == [72, 576]
    assert [tier.num_devices for tier in catalog.cluster("trn2-ultraserver", 128).tiers] == [16, 64, 128]
    assert catalog.cluster("H100", 64) == cluster
    assert catalog.cluster("dgx-h100").num_devices == 8
    assert catalog.cluster("gb200-nvl72").num_devices == 72


def test_oversubscription_is_on_the_outer_tier_only() -> None:
    tiers = catalog.cluster("h100-oversubscribed").tiers
    assert [tier.oversubscription for tier in tiers] == [1.0, 1.0, 2.0]
    assert [tier.num_devices for tier in catalog.cluster("h100-oversubscribed", 256).tiers] == [8, 256]


@pytest.mark.parametrize(
    ("name", "num_devices", "sentence"),
    [
        ("dgx-h100", 12, "dgx-h100: 12 devices are not a whole number of nodes of 8; the nearest are 8 and 16"),
        ("dgx-h100", 0, "dgx-h100: num_devices: must be between 1 and 10,000,000, got 0"),
        ("dgx-h100", -8, "must be between 1 and 10,000,000, got -8"),
        ("dgx-h100", 10**12, "must be between 1 and 10,000,000"),
        ("h100-oversubscribed", 2048, "h100-oversubscribed: num_devices: the cluster has 1024 devices, got 2048"),
    ],
)
def test_a_count_that_cannot_be_is_one_sentence(name: str, num_devices: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        catalog.cluster(name, num_devices)


@given(name=st.sampled_from(NODES), num_devices=st.integers(1, 5000))
def test_any_count_makes_a_cluster_or_one_sentence(name: str, num_devices: int) -> None:
    per_node = catalog.node(name).num_devices
    if num_devices <= per_node or num_devices % per_node == 0:
        assert catalog.cluster(name, num_devices).num_devices == num_devices
        return
    assume(num_devices % per_node)
    with pytest.raises(ValueError, match=f"{num_devices} devices are not a whole number of nodes of {per_node}"):
        catalog.cluster(name, num_devices)


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_cluster_file_takes_the_rest_from_the_catalog(written: Write) -> None:
    path = written("office.toml", CLUSTER_FILE)
    for given_path in (path, str(path)):
        cluster = catalog.cluster(given_path)
        assert [(tier.num_devices, tier.bytes_per_second) for tier in cluster.tiers] == [
            (4, catalog.link("pcie-4").bytes_per_second),
            (16, 2.5 * GIGA),
        ]
        assert cluster.tiers[1].latency_seconds == catalog.link("ethernet").latency_seconds
        assert cluster.kernels == catalog.kernel_curves("l40s")
    assert [tier.num_devices for tier in catalog.cluster(path, 2).tiers] == [2]


def test_a_cluster_file_is_read_again_when_it_changes(written: Write) -> None:
    path = written("office.toml", CLUSTER_FILE)
    assert catalog.cluster(path).num_devices == 16
    path.write_text(CLUSTER_FILE.replace("16", "8"))
    assert catalog.cluster(path).num_devices == 8


def test_a_cluster_may_be_wholly_inline(written: Write) -> None:
    """What `meshwise calibrate` writes: the machine's own accelerator, curves of its kernels and of its links."""
    from profiles.calibration import KernelCurves, LinkCurves
    from profiles.cluster import ClusterSpec

    source = catalog.cluster("epyc-9654", 2)
    mine = source.accelerator.model_copy(update={"name": "this-machine", "aliases": ()})
    kernels = KernelCurves.model_validate(source.kernels.model_dump() | {"name": "mine"})
    curves = LinkCurves.model_validate(source.tiers[0].curves.model_dump() | {"name": "loopback"})
    spec = ClusterSpec.model_validate({
        "name": "this-machine", "source": "measured", "accelerator": mine, "num_devices": 4, "kernels": kernels,
        "tiers": [{"name": "processes", "link": "loopback", "link_class": "host", "topology": "bus",
                   "num_devices": 4, "gb_per_second": 3, "curves": curves}],
    })  # fmt: skip
    path = written("machine.json", spec.model_dump_json(exclude_none=True))
    cluster = catalog.cluster(path)
    assert cluster.accelerator == mine
    assert cluster.kernels == kernels
    assert cluster.tiers[0].curves == curves
    with pytest.raises(BadFile, match="the cluster has 4 devices, got 8"):
        catalog.cluster(path, 8)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"l40s"', '"l40t"', "no accelerator is called 'l40t'; close names: .*l40s"),
        ('"pcie-4"', '"pcie-9"', "tier slots: no link is called 'pcie-9'; close names: .*pcie-4"),
        ("gb_per_second = 2.5", "", "tier lab: gb_per_second is missing, and ethernet links have no usual rate"),
        ("gb_per_second = 2.5", "gb_per_second = nan", "tiers.1.bytes_per_second must be a finite number, got nan"),
        ("gb_per_second = 2.5", "gb_per_secnd = 2.5", "tiers.1.gb_per_secnd is not a field here"),
        ("num_devices = 4", "num_devices = 3", "multiple of the devices of the one inside, got .3, 16."),
        ('source = "a test"', "", "source is missing"),
        ("num_devices = 16", "num_devices = 32", "outermost tier join at most 16 devices, got 32"),
        ('link = "pcie-4"', "link = ", "not valid TOML: .*line 9"),
        (CLUSTER_FILE[CLUSTER_FILE.index("[[") :], "", "tiers: at least one is needed"),
        ('accelerator = "l40s"', 'node = "dgx-h101"', "no node is called 'dgx-h101'; close names: dgx-h100"),
    ],
)
def test_a_faulty_cluster_file_is_one_sentence(written: Write, old: str, new: str, sentence: str) -> None:
    assert old in CLUSTER_FILE
    path = written("office.toml", CLUSTER_FILE.replace(old, new, 1))
    with pytest.raises(ValueError, match=sentence) as raised:
        catalog.cluster(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_path_needs_no_suffix(written: Write) -> None:
    assert catalog.cluster(str(written("office", CLUSTER_FILE))).num_devices == 16
    with pytest.raises(BadFile, match="cannot be read"):
        catalog.cluster("nowhere.toml")


def test_models_come_by_name_and_by_file(written: Write) -> None:
    name = catalog.names("models")[0]
    text = (catalog.DATA / "models" / f"{name}.toml").read_text()
    assert catalog.model(written("mine.toml", text)) == catalog.model(name)
    assert all(isinstance(catalog.model(name), TransformerShape | LayerList) for name in catalog.names("models"))
    with pytest.raises(BadFile, match=r"mine.toml: .*num_layers is missing"):
        catalog.model(written("mine.toml", 'name = "x"\nsource = "y"'))


def test_a_hugging_face_config_is_called_as_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-gpt"
    folder.mkdir()
    config = '{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 3}'
    (folder / "config.json").write_text(config)
    assert catalog.model(folder) == catalog.model(folder / "config.json")
    assert catalog.model(str(folder)).name == "my-gpt"
    (folder / "config.json").write_text(config.replace("3", "-3"))
    with pytest.raises(BadFile, match=re.escape(str(folder / "config.json"))):
        catalog.model(folder)


def test_software_comes_by_name_and_by_file(written: Write) -> None:
    name = catalog.names("software")[0]
    text = (catalog.DATA / "software" / f"{name}.toml").read_text()
    assert catalog.software(written("mine.toml", text)) == catalog.software(name)
    with pytest.raises(BadFile, match=r"mine.toml: .*attention_kernel"):
        catalog.software(written("mine.toml", 'name = "x"\nsource = "y"\nattention_kernel = "warp"'))


def test_curves_of_a_measured_device_or_of_the_pool() -> None:
    assert "a100-sxm-80gb" in catalog.kernel_curves("a100-sxm-80gb").accelerators
    assert catalog.kernel_curves("alveo-u280").name == "pool"
    assert "nvlink-3" in catalog.link_curves("nvlink-3", "scale_up").links
    assert catalog.link_curves("carrier-pigeon", "network").name == "pool-network"


def test_curves_are_found_by_what_they_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = (catalog.DATA / "calibration" / "kernels" / "pool.toml").read_text()
    folder = tmp_path / "calibration" / "kernels"
    folder.mkdir(parents=True)
    (folder / "pool.toml").write_text(pool)
    noted = re.sub(r"(?m)^notes = .*$", 'notes = "toy-1"', pool.replace('"pool"', '"family"', 1))
    (folder / "family.toml").write_text(f'accelerators = ["toy-2"]\n{noted}')
    monkeypatch.setattr(catalog, "DATA", tmp_path)
    assert catalog.kernel_curves("toy-2").name == "family"
    assert catalog.kernel_curves("toy-1").name == "pool"


def test_loading_one_cluster_reads_few_files() -> None:
    """In a fresh interpreter: the import reads nothing, one cluster only its own handful of files."""
    program = (
        "import profiles.files as files\n"
        "read = []\n"
        "original = files.read_text\n"
        "files.read_text = lambda path: (read.append(path), original(path))[1]\n"
        "from profiles import catalog\n"
        "assert not read\n"
        "catalog.cluster('dgx-h100', 64)\n"
        "print(sum('nodes' in str(p) or 'accelerators' in str(p) or 'models' in str(p) for p in read))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2
