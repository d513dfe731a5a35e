"""Names of accelerators: every spelling of a cloud finds its card, every spelling of a user is one value."""

from __future__ import annotations

import copy
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyward.builtin.accelerators import skyward_accelerators
from skyward.errors import AcceleratorError, ExitCode, SizeError
from skyward.model.accelerator import (
    AMD,
    NVIDIA,
    Accelerator,
    AcceleratorSpec,
    accelerators,
    set_registry,
)
from skyward.model.accelerator_model import AcceleratorModel, Registry, squeeze
from skyward.model.sizes import Range

MODELS = tuple(skyward_accelerators())
REGISTRY = Registry(MODELS)
NAMES = [model.name for model in MODELS]


def example_of(pattern: str) -> str:
    """One string a regular expression of the table matches."""
    text = re.sub(r"\([^()]*\)\?", "", pattern).replace(r"\d+", "8").replace(r"\.", ".").replace(".*", "22V")
    return re.sub(r".\?", "", text)


def spellings(model: AcceleratorModel) -> Iterator[tuple[str | None, str]]:
    """Every way the table says this model is called, with the cloud that does."""
    yield from ((None, name) for name in (model.name, *model.aliases))
    for cloud, names in model.cloud_names.items():
        yield from ((cloud, example_of(name[1:]) if name.startswith("~") else name) for name in names)


SPELLINGS = [(model, cloud, name) for model in MODELS for cloud, name in spellings(model)]
SHARED = {"A100", "V100", "A100SXM4", "A100PCIE", "RTX4090", "RTX3080", "RTX4060TI"}
"""Names, squeezed, that one cloud gives to cards of several memory sizes."""


def is_shared(name: str) -> bool:
    return squeeze(re.sub(r"\([^()]*\)", "", name)).upper() in SHARED


# -- what clouds say -----------------------------------------------------------------------------------------------


def test_the_table_has_every_fact_with_its_source_and_date() -> None:
    assert len(MODELS) >= 58
    assert len(set(NAMES)) == len(NAMES)
    for model in MODELS:
        assert model.source, model.name
        assert re.fullmatch(r"20[0-9]{2}-[0-9]{2}", model.observed_on), model.name
        assert model.confidence in ("high", "medium", "low"), model.name
        assert model.memory_gib, model.name
        assert model.family, model.name


@pytest.mark.parametrize(
    ("model", "cloud", "name"), SPELLINGS, ids=lambda value: str(getattr(value, "name", value))
)
def test_every_alias_and_cloud_spelling_resolves_to_its_row(
    model: AcceleratorModel, cloud: str | None, name: str
) -> None:
    assert REGISTRY.resolve(name, model.memory_gib, cloud) is model
    assert REGISTRY.resolve(name, model.memory_reported_gib, cloud) is model
    if not is_shared(name):
        assert REGISTRY.resolve(name, None, cloud) is model
        assert REGISTRY.resolve(name) is model


@pytest.mark.parametrize("model", MODELS, ids=NAMES)
def test_a_canonical_name_resolves_to_itself_whatever_else_is_said(model: AcceleratorModel) -> None:
    for cloud in (None, "aws", "digitalocean", "verda", "vastai", "elsewhere"):
        assert REGISTRY.resolve(model.name, None, cloud) is model


@settings(max_examples=400)
@given(st.data())
def test_case_separators_and_vendor_words_do_not_change_what_a_name_means(data: st.DataObject) -> None:
    model, cloud, name = data.draw(st.sampled_from([each for each in SPELLINGS if "(" not in each[2]]))
    seed = random.Random(data.draw(st.integers()))
    mixed = "".join(seed.choice((char.lower(), char.upper())) for char in name)
    respaced = re.sub(r"[ _-]", lambda _: seed.choice(" _-"), mixed)
    prefix = data.draw(st.sampled_from(["", model.vendor, model.vendor.upper(), model.vendor.title()]))
    glue = data.draw(st.sampled_from([" ", "-", "_", "  "])) if prefix else ""
    raw = f"{prefix}{glue}{respaced}" if is_a_plain(name) else mixed

    assert REGISTRY.resolve(raw, model.memory_gib, cloud) is model


def is_a_plain(name: str) -> bool:
    """Whether a name is words; the slugs of sizes are matched to the letter, in any case."""
    return not re.search(r"\d+[A-Z0-9]+\.|^gpu-", name)


@pytest.mark.parametrize(
    ("raw", "memory_gib", "provider", "name"),
    [
        # EC2 DescribeInstanceTypes gives one name to two cards
        ("A100", 40.0, "aws", "A100-40GB"),
        ("A100", 80.0, "aws", "A100-80GB"),
        ("V100", 16.0, "aws", "V100-16GB"),
        ("V100", 32.0, "aws", "V100-32GB"),
        ("H100", 80.0, "aws", "H100-SXM"),
        ("H100", 94.0, None, "H100-NVL"),
        ("GH200", 144.0, None, "GH200-144GB"),
        # and reports less than is marketed
        ("A10G", 22888 / 1024, "aws", "A10G"),
        ("L4", 22888 / 1024, "aws", "L4"),
        ("L40S", 45776 / 1024, "aws", "L40S"),
        ("B200", 183359 / 1024, "aws", "B200"),
        ("B300", 275040 / 1024, "aws", "B300"),
        ("Trainium2", 512.0, "aws", "Trainium2"),
        ("Trainium", 32.0, "aws", "Trainium1"),
        # Vast.ai tells only gpu_ram apart
        ("A100 SXM4", 40960 / 1024, "vastai", "A100-40GB"),
        ("A100 SXM4", 81920 / 1024, "vastai", "A100-80GB"),
        ("A100 PCIE", 81920 / 1024, "vastai", "A100-80GB"),
        ("Tesla V100", 32768 / 1024, "vastai", "V100-32GB"),
        ("RTX 4060 Ti", 16.0, "vastai", "RTX-4060-Ti-16GB"),
        # the 4090 that its owner doubled is not the one of the shops
        ("RTX 4090", 24564 / 1024, "vastai", "RTX-4090"),
        ("RTX 4090", 49140 / 1024, "vastai", "RTX-4090-48GB"),
        ("RTX 4090D", 24.0, "vastai", "RTX-4090D"),
        # Verda's descriptions and slugs of other counts
        ("1x H100 SXM5 80GB", 80.0, "verda", "H100-SXM"),
        ("8H100.80S.176V", None, "verda", "H100-SXM"),
        ("8A100.176V", None, "verda", "A100-80GB"),
        ("4A100.40S.88V", None, "verda", "A100-40GB"),
        # what drivers say
        ("NVIDIA A100-PCIE-40GB", None, None, "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", None, None, "A100-80GB"),
        ("Tesla V100-PCIE-16GB", None, None, "V100-16GB"),
        ("NVIDIA RTX 6000 Ada Generation", None, None, "RTX-6000-Ada"),
        ("NVIDIA GeForce RTX 3090 Ti", None, None, "RTX-3090-Ti"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None, None, "RTX-PRO-6000"),
        # the 480 GB of a GH200 are its processor's
        ("NVIDIA GH200 480GB", None, None, "GH200-96GB"),
        ("GH200 480GB", 95.0, None, "GH200-96GB"),
        # four cards, one number
        ("RTX 6000 Ada", 48.0, None, "RTX-6000-Ada"),
        ("RTX A6000", 48.0, None, "RTX-A6000"),
        ("Quadro RTX 6000", 24.0, None, "Quadro-RTX-6000"),
        ("Q RTX 6000", 24.0, "vastai", "Quadro-RTX-6000"),
        ("RTX PRO 6000", 96.0, None, "RTX-PRO-6000"),
        ("RTX PRO Server 6000", 95.6, "aws", "RTX-PRO-6000"),
    ],
)
def test_names_that_cards_share_are_told_apart(
    raw: str, memory_gib: float | None, provider: str | None, name: str
) -> None:
    found = REGISTRY.resolve(raw, memory_gib, provider)

    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("raw", "memory_gib"),
    [
        ("RTX 6000", None),
        ("RTX 6000", 48.0),
        ("A100", 24.0),
        ("H100 SXM", 94.0),
        ("H100", 141.0),
        ("RTX 4090", 16.0),
        ("L4", 2861 / 1024),
        ("T4", 24.0),
        ("A100 SXM4 80GB", 40.0),
        ("A100-24GB", None),
        ("L4 SXM", None),
        ("Voodoo 2", None),
        ("", None),
        ("nvidia", None),
        ("gpu", None),
    ],
)
def test_a_name_that_does_not_fit_its_memory_resolves_to_nothing(raw: str, memory_gib: float | None) -> None:
    assert REGISTRY.resolve(raw, memory_gib) is None


def test_a_pattern_of_one_cloud_means_nothing_on_another() -> None:
    assert REGISTRY.resolve("8H100.80S.176V", None, "verda") is REGISTRY.get("H100-SXM")
    assert REGISTRY.resolve("8H100.80S.176V", None, "aws") is None


@given(st.sampled_from(MODELS), st.floats(min_value=0.5, max_value=1.5))
def test_memory_decides_within_seven_per_cent(model: AcceleratorModel, factor: float) -> None:
    assert model.memory_gib is not None
    reported = model.memory_gib * factor
    sizes = [size for size in (model.memory_gib, model.memory_reported_gib) if size]

    found = REGISTRY.resolve(model.name, reported)

    assert (found is model) == any(abs(reported - size) <= 0.07 * size for size in sizes)


# -- what users say ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        ("a100", Accelerator("A100")),
        ("NVIDIA A100", Accelerator("A100")),
        ("A100:8", Accelerator("A100", count=8)),
        ("8xA100", Accelerator("A100", count=8)),
        ("8x A100", Accelerator("A100", count=8)),
        ("A100-80GB", Accelerator("A100", memory="80GB")),
        ("A100_80GB", Accelerator("A100", memory=80)),
        ("A100:80GB", NVIDIA.A100),
        ("A100-80GB", NVIDIA.A100()),
        ("A100-40GB", NVIDIA.A100(memory="40GB")),
        ("A100:40GB:2", NVIDIA.A100(memory="40GB", count=2)),
        ("A100:2:40GB", NVIDIA.A100(2, "40GB")),
        ("A100-SXM4-80GB", Accelerator("A100-80GB", form_factor="SXM4")),
        ("H100-80GB", NVIDIA.H100()),
        ("H100:8:80GB", NVIDIA.H100(count=8)),
        ("H100-SXM", NVIDIA.H100(form_factor="SXM")),
        ("H100 SXM5 80GB", NVIDIA.H100(form_factor="SXM")),
        ("H100:PCIe", NVIDIA.H100(form_factor="PCIe")),
        ("H100-NVL", NVIDIA.H100(form_factor="NVL")),
        ("H100:94GB", NVIDIA.H100(form_factor="NVL")),
        ("H100:4..8", Accelerator("H100", count="4..8")),
        ("H100:4..8", Accelerator("H100", count=4, max_count=8)),
        ("H100:1g.10gb:80GB", NVIDIA.H100(mig="1g.10gb")),
        ("A100:1g.5gb", NVIDIA.A100(memory="40GB", mig="1g.5gb")),
        ("A100-40GB-1g.5gb", NVIDIA.A100(memory="40GB", mig="1g.5gb")),
        ("RTX 4090:2", Accelerator("RTX_4090", count=2)),
        ("rtx4090", NVIDIA.RTX_4090),
        ("RTX 4090:48GB", NVIDIA.RTX_4090_48GB),
        ("GH200-480GB", Accelerator("GH200:96GB")),
        ("L4:0.25", Accelerator("L4", count=0.25)),
        ("24GB..80GB", Accelerator("gpu", memory="24GB..80GB")),
        ("24GB..", Accelerator("gpu", memory=Range(24, None))),
        ("nvidia:24GB..:2", Accelerator("NVIDIA", count=2, memory="24GB..")),
        ("MI300X:8", AMD.MI("300X", count=8)),
        ("Trainium1", AcceleratorSpec.AWS.Trainium(version=1)),
        ("Trn2", AcceleratorSpec.AWS.Trainium(version=2)),
        ("Inferentia2", AcceleratorSpec.AWS.Inferentia(version=2)),
        ("L40S", AcceleratorSpec.NVIDIA.L40S()),
        ("T4", accelerators.T4()),
        ("H200:141GB", NVIDIA.H200),
    ],
)
def test_spellings_of_one_meaning_are_one_value(spelling: str, value: Accelerator) -> None:
    parsed = Accelerator.parse(spelling)

    assert parsed == value
    assert hash(parsed) == hash(value)


def test_a_bare_family_is_any_member_and_a_called_one_is_the_usual_size() -> None:
    assert names_of("A100") == {"A100-40GB", "A100-80GB"}
    assert names_of(NVIDIA.A100()) == {"A100-80GB"}
    assert names_of("H100") == {"H100-SXM", "H100-PCIe", "H100-NVL"}
    assert names_of(NVIDIA.H100()) == {"H100-SXM", "H100-PCIe"}
    assert names_of("Trainium") == {"Trainium1", "Trainium2", "Trainium3"}


def names_of(spelling: str | Accelerator) -> set[str]:
    return {model.name for model in REGISTRY.select(Accelerator.parse(spelling))}


@pytest.mark.parametrize(
    ("model", "cloud", "name"), SPELLINGS, ids=lambda value: str(getattr(value, "name", value))
)
def test_whatever_a_cloud_calls_a_card_can_be_asked_for(
    model: AcceleratorModel, cloud: str | None, name: str
) -> None:
    asked = Accelerator(name, registry=REGISTRY)

    family = REGISTRY.family(model.name)
    assert family is not None
    if is_shared(name):
        assert names_of(asked)
    else:
        assert model.name in names_of(asked) <= {member.name for member in family.models}


GROUPS = sorted({model.family for model in MODELS} | {"nvidia", "amd", "gpu", "tpu"} | set(NAMES))


@st.composite
def requests(draw: st.DrawFn) -> Accelerator:
    """Requests that mean something: a group, and constraints that one of its models fulfils."""
    group = REGISTRY.group(draw(st.sampled_from(GROUPS)))
    assert group is not None
    model = draw(st.sampled_from(group.models))
    size = model.memory_gib
    memory = draw(st.sampled_from([None, size, Range(size, None), Range(None, size), Range(1, 1000)]))
    shapes = [name for shape in model.form_factors for name in (shape, shape.rstrip("0123456789"))]
    return Accelerator(
        group.name,
        draw(st.sampled_from([None, 1, 2, 8, 0.25, "4..8", "..2", "0.5..1"])),
        memory,
        draw(st.sampled_from([None, *shapes])),
        draw(st.sampled_from([None, *(profile.name for profile in model.mig)])),
        registry=REGISTRY,
    )


@given(requests())
def test_what_is_shown_of_a_request_means_the_same_again(asked: Accelerator) -> None:
    assert Accelerator.parse(str(asked)) == asked
    assert eval(repr(asked)) == asked
    assert pickle.loads(pickle.dumps(asked)) == asked
    assert copy.deepcopy(asked) == asked


@given(requests(), st.randoms())
def test_case_and_spaces_of_a_request_do_not_matter(asked: Accelerator, seed: random.Random) -> None:
    mixed = "".join(seed.choice((char.lower(), char.upper())) for char in str(asked))

    assert Accelerator(f" {mixed.replace(':', ' : ')} ") == asked


@given(requests())
def test_a_request_selects_exactly_the_models_of_its_group_that_fulfil_it(asked: Accelerator) -> None:
    group = REGISTRY.group(asked.name)
    assert group is not None

    def fulfils(model: AcceleratorModel) -> bool:
        sizes = [size for size in (model.memory_gib, model.memory_reported_gib) if size]
        if asked.memory is not None and asked.memory.low == asked.memory.high:
            wanted = asked.memory.low or 0
            if not any(abs(wanted - size) <= 0.07 * size for size in sizes):
                return False
        elif asked.memory is not None and not any(size in asked.memory for size in sizes):
            return False
        if asked.mig is not None and asked.mig not in [profile.name for profile in model.mig]:
            return False
        sold = "NVL" if model.name.endswith("NVL") else f"{model.name} {model.form_factor}"
        return asked.form_factor is None or asked.form_factor.lower() in sold.lower()

    assert set(names_of(asked)) == {model.name for model in group.models if fulfils(model)}
    assert names_of(asked)


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("A1OO", "A100"),
        ("H10", "H100"),
        ("4090", "RTX-4090"),
        ("RTX 4900", "RTX-4090"),
        ("RTX 6000", "RTX-6000-Ada"),
        ("nvidea", "nvidia"),
        ("MI300", "MI300X"),
        ("Tranium2", "Trainium2"),
        ("L4S", "L40S"),
    ],
)
def test_an_unknown_name_is_refused_at_once_with_the_nearest_ones(wrong: str, near: str) -> None:
    with pytest.raises(AcceleratorError) as caught:
        Accelerator(f"{wrong}:2")

    assert caught.value.exit_code is ExitCode.USAGE
    assert repr(wrong) in caught.value.message
    assert near in caught.value.values["nearest"]
    assert near in caught.value.message
    assert caught.value.hints == ("skyward accelerators",)


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("A100:24GB", "no A100 with 24GB: known are 40GB, 80GB"),
        ("H100:SXM9", "no H100 as SXM9: known are NVL, PCIe, SXM5"),
        ("H100-SXM:2g.10gb", "H100-SXM has no MIG profile '2g.10gb': known are 1g.10gb, 1g.20gb, 2g.20gb"),
        ("L4:1g.10gb", "L4 cannot be partitioned: leave out mig='1g.10gb'"),
        ("GH200-144GB:1g.18gb", "GH200-144GB has no known MIG profiles"),
        ("A100:8:4", "'A100:8:4' has two counts: leave one out"),
        ("8xA100:4", "has two counts"),
        ("A100-80GB:40GB", "has two memory sizes"),
        ("A100:fast", "cannot read 'fast' in accelerator 'A100:fast'"),
        ("A100:", "cannot read ''"),
        ("", "an accelerator needs a name"),
        (":8", "an accelerator needs a name"),
        ("8", "unknown accelerator '8'"),
    ],
)
def test_what_nothing_fulfils_is_refused_with_what_would(spelling: str, said: str) -> None:
    with pytest.raises(AcceleratorError) as caught:
        Accelerator(spelling)

    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_a_profile_of_the_other_size_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(AcceleratorError, match=r"A100-80GB has no MIG profile '1g.5gb': known are 1g.10gb"):
        NVIDIA.A100(mig="1g.5gb")


@pytest.mark.parametrize("count", [0, -1, "x", "8..4", float("nan"), True])
def test_a_count_that_is_none_is_a_size_error(count: object) -> None:
    with pytest.raises(SizeError):
        Accelerator("H100", count=count)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [5, ["A100"], b"A100", object()])
def test_what_is_no_name_is_refused(value: object) -> None:
    with pytest.raises(AcceleratorError):
        Accelerator.parse(value)  # type: ignore[call-overload]


def test_nothing_stays_nothing_and_a_value_stays_itself() -> None:
    value = Accelerator("A100")

    assert Accelerator.parse(None) is None
    assert Accelerator.parse(value) is value


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_a_usage_error_in_one_line(text: str) -> None:
    try:
        value = Accelerator(text, registry=REGISTRY)
    except (AcceleratorError, SizeError) as error:
        message = error.message
    else:
        message = ""
        assert Accelerator(str(value), registry=REGISTRY) == value
    assert "\n" not in message


# -- offers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "offered", "count", "fits"),
    [
        ("L4", "L4", 1, True),
        ("L4", "L4", 0.125, False),
        ("L4", "L4", 0.5, False),
        ("L4:0.25", "L4", 0.125, False),
        ("L4:0.25", "L4", 0.25, True),
        ("L4:0.25", "L4", 1, True),
        ("L4:0.25..0.5", "L4", 1, False),
        ("L4:..4", "L4", 0.5, False),
        ("H100:4..8", "H100-SXM", 8, True),
        ("H100:4..8", "H100-SXM", 2, False),
        ("H100:4..8", "H100-SXM", 16, False),
        ("H100:8", "H100-SXM", 16, True),
        ("A100", "A100-40GB", 1, True),
        ("A100-80GB", "A100-40GB", 8, False),
        ("A100-80GB", "A100 SXM4 80GB", 8, True),
        ("nvidia", "MI300X", 8, False),
        ("24GB..", "T4", 1, False),
        ("24GB..80GB", "H200-SXM", 1, False),
        ("24GB..", "Inferentia2", 12, False),
        ("RTX 4090", "RTX-4090-48GB", 1, False),
        ("A100", "Voodoo 2", 1, False),
        ("A100", None, 0, False),
    ],
)
def test_an_offer_matches_by_model_and_count(
    asked: str, offered: str | None, count: float, fits: bool
) -> None:
    assert REGISTRY.matches(Accelerator(asked), offered, count) is fits


def test_a_partition_says_how_many_fit_on_a_device() -> None:
    profile = REGISTRY.profile(Accelerator("A100-40GB:3g.20gb"))

    assert profile is not None
    assert (profile.compute_slices, profile.memory_gb, profile.fits) == (3, 20, 2)
    assert REGISTRY.profile(Accelerator("A100")) is None


@pytest.mark.parametrize("model", [model for model in MODELS if model.mig], ids=lambda model: model.name)
def test_partitions_of_a_device_never_exceed_it(model: AcceleratorModel) -> None:
    assert model.memory_gib is not None
    for profile in model.mig:
        assert profile.name == f"{profile.compute_slices}g.{profile.memory_gb:g}gb"
        assert profile.fits * profile.compute_slices <= model.mig_max
        assert profile.fits * profile.memory_gb <= model.memory_gib * 1.03  # names round up


# -- names as attributes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [model for model in MODELS if model.vendor == "nvidia"], ids=lambda m: m.name
)
def test_every_card_of_nvidia_is_an_attribute_called_or_not(model: AcceleratorModel) -> None:
    attribute = model.name.replace("-", "_")

    value = getattr(NVIDIA, attribute)

    assert attribute in dir(NVIDIA)
    assert value == value() == Accelerator(model.name)
    assert getattr(accelerators, attribute) == value


@pytest.mark.parametrize("name", ["H900", "MI300X", "Trainium2", "gpu", "amd"])
def test_what_a_vendor_does_not_make_is_no_attribute_of_it(name: str) -> None:
    assert not hasattr(NVIDIA, name)
    with pytest.raises(AcceleratorError, match=f"no accelerator of nvidia is called '{name}'"):
        getattr(NVIDIA, name)


def test_namespaces_can_be_copied_and_shown() -> None:
    assert pickle.loads(pickle.dumps(NVIDIA)).L4 == NVIDIA.L4
    assert copy.copy(NVIDIA).L4 == NVIDIA.L4
    assert repr(NVIDIA) == "<accelerators of nvidia>"


# -- where names come from -----------------------------------------------------------------------------------------


def test_upper_layers_say_which_accelerators_are_known() -> None:
    mine = AcceleratorModel(name="Voodoo-2", vendor="3dfx", memory_gib=0.012, family="Voodoo-2")
    set_registry(lambda: Registry([mine]))
    try:
        assert Accelerator("voodoo2:2").name == "Voodoo-2"
        assert Accelerator("3dfx").name == "3dfx"
        with pytest.raises(AcceleratorError):
            Accelerator("A100")
    finally:
        set_registry(None)

    assert Accelerator("A100").name == "A100"


def run_python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_instance_takes_names_it_does_not_know_and_still_reads_the_rest() -> None:
    code = "from skyward.model.accelerator import Accelerator as A; print(A('Voodoo 2:4..8'), A('h100:8'))"

    there = run_python(code, SKYWARD_INSTANCE_INFO="{}")
    here = run_python(code)

    assert there.stdout == "Voodoo 2:4..8 H100:8\n"
    assert here.returncode != 0
    assert "unknown accelerator 'Voodoo 2'" in here.stderr


def test_an_instance_without_the_table_reads_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYWARD_INSTANCE_INFO", "{}")
    set_registry(lambda: Registry(()))
    try:
        made = [
            NVIDIA.H100(count=8, form_factor="NVL"),
            NVIDIA.A100(memory="40GB", mig="1g.5gb"),
            AMD.MI("300X"),
            AcceleratorSpec.AWS.Trainium(version=1),
            Accelerator("24GB..80GB"),
        ]
    finally:
        set_registry(None)

    assert [value.count for value in made] == [8, 1, 1, 1, 1]
    assert [value.name for value in made] == ["H100", "A100", "MI300X", "Trainium1", "gpu"]


def test_values_need_the_standard_library_alone() -> None:
    code = """
import sys
from skyward.model.accelerator import NVIDIA
from skyward.model.volume import Volume
assert NVIDIA.A100(count=8).count == 8
foreign = {"pluggy", "msgspec", "duckdb", "pyarrow", "paramiko", "boto3", "click", "rich", "cloudpickle"}
print(sorted(foreign & {name.partition(".")[0] for name in sys.modules}))
"""

    assert run_python(code).stdout == "[]\n"
