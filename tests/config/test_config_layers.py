"""Where settings come from, which one wins, and what is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skyward
from skyward.config import Config, Places, choose, join_key, load_config, make_private, split_key
from skyward.errors import ConfigError, ExitCode, SkywardWarning


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository without configuration."""
    directory = tmp_path / "project"
    (directory / ".git").mkdir(parents=True)
    return directory


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"SKYWARD_HOME": str(tmp_path / "home")}


@pytest.fixture
def user_file(environ: dict[str, str]) -> Path:
    file = Places.find(environ).config / "config.toml"
    file.parent.mkdir(parents=True)
    return file


def load(
    project: Path, environ: Mapping[str, str], options: Mapping[str, Any] | None = None, **more: Any
) -> Config:
    return load_config(options or {}, start=project, environ=environ, **more)


def refusal(
    project: Path, environ: Mapping[str, str], options: Mapping[str, Any] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(project, environ, options)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in caught.value.message
    return caught.value


# -- precedence ----------------------------------------------------------------------------------------------------


def test_nothing_configured_is_nothing_set(project: Path, environ: dict[str, str]) -> None:
    config = load(project, environ)

    assert config.defaults == {}
    assert config.files == ()
    assert config.get("defaults.nodes") is None
    assert config.get("defaults.nodes", 7) == 7
    assert config.origin("defaults.nodes") is None


@pytest.mark.filterwarnings("ignore:.*holds both")
@pytest.mark.parametrize("strongest", range(5))
def test_the_strongest_layer_that_speaks_wins(
    project: Path, environ: dict[str, str], user_file: Path, strongest: int
) -> None:
    """Layers from strong to weak: option, variable, skyward.toml, pyproject.toml, user file."""
    values = dict(enumerate((5, 4, 3, 2, 1)))
    says = {layer: values[layer] for layer in range(strongest, 5)}
    if 4 in says:
        user_file.write_text(f"[defaults]\nnodes = {says[4]}")
    if 3 in says:
        (project / "pyproject.toml").write_text(f"[tool.skyward.defaults]\nnodes = {says[3]}")
    if 2 in says:
        (project / "skyward.toml").write_text(f"defaults.nodes = {says[2]}")
    if 1 in says:
        environ["SKYWARD_NODES"] = str(says[1])
    options = {"nodes": str(says[0])} if 0 in says else {}

    config = load(project, environ, options)

    origins = [
        "-o nodes=5",
        "$SKYWARD_NODES",
        f"{project}/skyward.toml:1",
        f"{project}/pyproject.toml:2",
        f"{user_file}:2",
    ]
    assert config.get("defaults.nodes") == values[strongest]
    assert config.origin("defaults.nodes") == origins[strongest]


def test_tables_merge_by_key_and_arrays_replace(
    project: Path, environ: dict[str, str], user_file: Path
) -> None:
    user_file.write_text(
        '[defaults]\nmemory = "8GB"\npip = ["numpy", "scipy"]\n[defaults.env]\nA = "1"\nB = "1"'
    )
    (project / "skyward.toml").write_text('[defaults]\nnodes = 2\npip = ["torch"]\nenv = {B = "2"}')

    assert load(project, environ).defaults == {
        "nodes": 2,
        "memory": "8GB",
        "pip": ["torch"],
        "env": {"A": "1", "B": "2"},
    }


def test_the_nearest_project_counts_and_the_search_ends_at_the_repository(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "inner"
    below = inner / "src"
    below.mkdir(parents=True)
    (outer / "skyward.toml").write_text("[defaults]\nnodes = 1")
    (inner / "skyward.toml").write_text("[defaults]\nretries = 2")

    assert load(below, environ).defaults == {"retries": 2}

    (inner / "skyward.toml").unlink()
    assert load(below, environ).defaults == {"nodes": 1}

    (inner / ".git").mkdir()
    assert load(below, environ).defaults == {}


def test_a_pyproject_without_our_table_is_passed_over(tmp_path: Path, environ: dict[str, str]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\ndependencies = ["skyward"]')
    (tmp_path / "skyward.toml").write_text("[defaults]\nnodes = 3")

    assert load(inner, environ).defaults == {"nodes": 3}


def test_a_foreign_pyproject_is_not_even_parsed(project: Path, environ: dict[str, str]) -> None:
    (project / "pyproject.toml").write_text("[this is no TOML")

    assert load(project, environ).files == ()


def test_a_project_that_uses_both_files_is_warned(project: Path, environ: dict[str, str]) -> None:
    (project / "skyward.toml").write_text("[defaults]\nnodes = 1")
    (project / "pyproject.toml").write_text("[tool.skyward.defaults]\nretries = 1")

    with pytest.warns(SkywardWarning, match="holds both skyward.toml and"):
        config = load(project, environ)
    assert config.defaults == {"nodes": 1, "retries": 1}


def test_a_named_file_replaces_the_nearest_one(
    project: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    (project / "skyward.toml").write_text("[defaults]\nnodes = 1")
    other = tmp_path / "ci.toml"
    other.write_text("[defaults]\nretries = 5")

    assert load(project, environ, file=other).defaults == {"retries": 5}
    assert load(project, {**environ, "SKYWARD_CONFIG": str(other)}).defaults == {"retries": 5}


def test_a_named_file_must_exist(project: Path, environ: dict[str, str]) -> None:
    error = refusal(project, {**environ, "SKYWARD_CONFIG": "/no/such.toml"})

    assert error.message == "'/no/such.toml' cannot be read: No such file or directory"


# -- spelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("SKYWARD_PROVIDER", "aws", "defaults.provider", "aws"),
        ("SKYWARD_PROVIDER", "aws, verda", "defaults.provider", ["aws", "verda"]),
        ("SKYWARD_MAX_COST", "2.5", "defaults.max_cost", 2.5),
        ("SKYWARD_MEMORY", "64GB..", "defaults.memory", "64GB.."),
        ("SKYWARD_ALLOCATION", "0.5", "defaults.allocation", 0.5),
        ("SKYWARD_POOLS__TRAIN__NODES", "4", "pools.train.nodes", 4),
        ("SKYWARD_DEFAULTS__ENV__OMP_NUM_THREADS", "8", "defaults.env.OMP_NUM_THREADS", "8"),
        ("SKYWARD_RUN__ADDOPTS", "-x", "run.addopts", "-x"),
        ("SKYWARD_MAX_AGE", "6h", "catalog.max_age", "6h"),
        ("SKYWARD_MAX_AGE", "60", "catalog.max_age", 60.0),
        ("SKYWARD_PROVIDERS__AWS__REGION", "eu-west-1", "providers.aws.region", "eu-west-1"),
    ],
)
def test_variables(
    project: Path, environ: dict[str, str], name: str, value: str, key: str, expected: object
) -> None:
    config = load(project, {**environ, name: value})

    assert config.get(key) == expected
    assert config.origin(key) == f"${name}"


def test_an_empty_variable_sets_nothing(project: Path, environ: dict[str, str]) -> None:
    assert load(project, {**environ, "SKYWARD_NODES": ""}).defaults == {}


def test_variables_of_others_mean_nothing(project: Path, environ: dict[str, str]) -> None:
    assert load(project, {**environ, "SKYWARD_INSTANCE_INFO": "{}", "SKYWARD_TESTBED": "x"}).settings == {}


def test_a_variable_that_is_nearly_one_is_warned_of(project: Path, environ: dict[str, str]) -> None:
    with pytest.warns(SkywardWarning, match="SKYWARD_MAX_COTS means nothing; did you mean SKYWARD_MAX_COST"):
        load(project, {**environ, "SKYWARD_MAX_COTS": "3"})


@pytest.mark.parametrize(
    ("option", "value", "key", "expected"),
    [
        ("nodes", "4", "defaults.nodes", 4),
        ("defaults.nodes", "4", "defaults.nodes", 4),
        ("pools.train.nodes", "4", "pools.train.nodes", 4),
        ('pools."my pool".nodes', "4", 'pools."my pool".nodes', 4),
        ("plugins", "acme,no:terminal", "plugins", ["acme", "no:terminal"]),
        ("pip", '["numpy", "torch"]', "defaults.pip", ["numpy", "torch"]),
        ("env", "{A = '1'}", "defaults.env.A", "1"),
        ("defaults.env.A", "1=2", "defaults.env.A", "1=2"),
        ("defaults.image.project", "false", "defaults.image.project", False),
        ("max_price", "1e1", "defaults.max_price", 10.0),
        ("nodes", 4, "defaults.nodes", 4),
        ("providers.aws.instance_timeout", "600", "providers.aws.instance_timeout", 600),
        ("providers.vastai.min_reliability", "0.99", "providers.vastai.min_reliability", 0.99),
        ("providers.aws.region", "us-east-1", "providers.aws.region", "us-east-1"),
    ],
)
def test_options(
    project: Path, environ: dict[str, str], option: str, value: object, key: str, expected: object
) -> None:
    assert load(project, environ, {option: value}).get(key) == expected


@given(
    path=st.lists(
        st.text(st.characters(exclude_characters="\"'", exclude_categories=["Cs", "Cc", "Z"]), min_size=1),
        min_size=1,
    )
)
def test_keys_survive_being_written_and_read(path: list[str]) -> None:
    assert split_key(join_key(tuple(path))) == tuple(path)


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[defaults]\n\nmemmory = 3", 3, "unknown option 'memmory' in [defaults]; did you mean 'memory'?"),
        (
            "[defualts]\nnodes = 1",
            1,
            "unknown option 'defualts' in the configuration; did you mean 'defaults'?",
        ),
        ("[pools.train]\nnode = 1", 2, "unknown option 'node' in [pools.train]; did you mean 'nodes'?"),
        ("[defaults]\nnodes = 'many'", 2, "'defaults.nodes' is 'many', not a whole number, 1 or more"),
        ("[defaults]\nnodes = 0", 2, "'defaults.nodes' is 0, not a whole number, 1 or more"),
        ("[defaults]\nnodes = true", 2, "'defaults.nodes' is True, not a whole number"),
        ("[defaults]\nnodes = 1.5", 2, "'defaults.nodes' is 1.5, not a whole number"),
        ("[defaults]\nmax_price = -1.0", 2, "'defaults.max_price' is -1.0, not a number, 0 or more"),
        ("[defaults]\nmax_price = nan", 2, "'defaults.max_price' is nan, not a number, 0 or more"),
        ("[defaults]\nprovider = 3", 2, "'defaults.provider' is 3, not text or a list of texts"),
        (
            "[defaults]\ndisplay = 'fancy'",
            2,
            "'defaults.display' is 'fancy', not 'auto', 'rich', 'log', 'quiet'",
        ),
        ("[defaults]\nmemory = '24 parsecs'", 2, "'defaults.memory': "),
        ("[defaults]\ntimeout = 'soon'", 2, "'defaults.timeout': "),
        ("[catalog]\nmax_age = 'old'", 2, "'catalog.max_age': "),
        ("[defaults]\nenv = 3", 2, "'defaults.env' is a table, not a value"),
        ("defaults = 3", 1, "'defaults' is a table, not a value"),
        ("[defaults.env]\nA = 3", 2, "'defaults.env.A' is 3, not text"),
        ("[defaults.nodes]\nx = 3", 2, "unknown option 'x' in [defaults.nodes]"),
        ("[defaults.image]\npipp = []", 2, "unknown option 'pipp' in [defaults.image]; did you mean 'pip'?"),
        ("[[pools]]\nnodes = 1", 1, "'pools' is a table, not a value"),
    ],
)
def test_what_a_file_may_not_say_is_told_with_its_line(
    project: Path, environ: dict[str, str], text: str, line: int, says: str
) -> None:
    (project / "skyward.toml").write_text(text)

    assert refusal(project, environ).message.startswith(f"{project}/skyward.toml:{line}: {says}")


def test_lines_are_found_in_pyproject_and_in_inline_tables(project: Path, environ: dict[str, str]) -> None:
    (project / "pyproject.toml").write_text(
        '[project]\nname = "x"\n\n[tool.skyward]\npools.train = { nodes = 1,\n  nods = 2 }'
    )
    if sys.version_info < (3, 15):  # line breaks in inline tables are TOML 1.1
        (project / "pyproject.toml").write_text(
            '[project]\nname = "x"\n\n[tool.skyward]\npools.train = { nods = 2 }'
        )

    assert refusal(project, environ).message.startswith(f"{project}/pyproject.toml:5: unknown option 'nods'")


@pytest.mark.parametrize(
    "data", [b"[defaults", b"\xff\xfe", b"nodes = ", b"a = 1\na = 2", b"x = " + b"[" * 20_000]
)
def test_a_file_that_is_no_toml_is_named(project: Path, environ: dict[str, str], data: bytes) -> None:
    (project / "skyward.toml").write_bytes(data)

    assert refusal(project, environ).message.startswith(f"{project}/skyward.toml is no valid TOML: ")


def test_a_directory_in_the_place_of_a_file_is_passed_over(project: Path, environ: dict[str, str]) -> None:
    (project / "skyward.toml").mkdir()

    assert load(project, environ).settings == {}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "SKYWARD_NODES",
            "many",
            "$SKYWARD_NODES: 'defaults.nodes' is 'many', not a whole number, 1 or more",
        ),
        (
            "SKYWARD_POOLS__TRAIN__NODS",
            "1",
            "$SKYWARD_POOLS__TRAIN__NODS: unknown option 'nods' in [pools.train]",
        ),
        ("SKYWARD_TIMEOUT", "soon", "$SKYWARD_TIMEOUT: 'defaults.timeout': "),
    ],
)
def test_a_variable_that_makes_no_sense_is_named(
    project: Path, environ: dict[str, str], name: str, value: str, says: str
) -> None:
    assert refusal(project, {**environ, name: value}).message.startswith(says)


def test_an_option_that_makes_no_sense_is_named(project: Path, environ: dict[str, str]) -> None:
    assert (
        refusal(project, environ, {"nods": "1"}).message
        == "-o nods: unknown option 'nods' in [defaults]; did you mean 'nodes'?"
    )


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        'providers.digitalocean.token = "dop_v1_x"',
        'providers.verda.client_secret = "x"',
        'providers.vastai.api_key = "x"',
        'providers.aws.secret_access_key = "x"',
        'defaults.env.HF_TOKEN = "x"',
        'pools.train.env = { WANDB_API_KEY = "x" }',
        'defaults.image.env.DB_PASSWORD = "x"',
    ],
)
@pytest.mark.parametrize("file", ["skyward.toml", "pyproject.toml"])
def test_secrets_in_project_files_are_refused(
    project: Path, environ: dict[str, str], line: str, file: str
) -> None:
    (project / file).write_text(f"[tool.skyward]\n{line}" if file == "pyproject.toml" else line)

    error = refusal(project, environ)

    assert "looks like a secret; secrets do not belong in a project file" in error.message
    assert "dop_v1_x" not in str(error) + str(error.facts) + str(error.hints)
    assert len(error.hints) == 2


def test_secrets_on_the_command_line_are_refused(project: Path, environ: dict[str, str]) -> None:
    error = refusal(project, environ, {"providers.acme.token": "canary"})

    assert "secrets do not belong on the command line" in error.message
    assert "canary" not in error.message


def test_secrets_in_the_users_own_file_are_fine(
    project: Path, environ: dict[str, str], user_file: Path
) -> None:
    user_file.write_text('[providers.acme]\ntoken = "x"')

    assert load(project, environ).provider("acme") == {"token": "x"}


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEY", "MONKEY_KEYS", "PASSES"])
def test_what_only_sounds_like_a_secret_is_fine(project: Path, environ: dict[str, str], name: str) -> None:
    (project / "skyward.toml").write_text(f'defaults.env.{name} = "x"')

    assert load(project, environ).defaults["env"] == {name: "x"}


# -- pools, providers, places ----------------------------------------------------------------------------------------


def test_a_pool_is_its_own_settings_over_the_defaults(project: Path, environ: dict[str, str]) -> None:
    (project / "skyward.toml").write_text(
        '[defaults]\nnodes = 1\nmemory = "8GB"\nenv = {A = "1"}\n[pools.train]\nnodes = 4\nenv = {B = "2"}'
    )

    assert load(project, environ).pool("train") == {
        "nodes": 4,
        "memory": "8GB",
        "env": {"A": "1", "B": "2"},
        "name": "train",
    }


def test_an_unknown_pool_names_the_nearest(project: Path, environ: dict[str, str]) -> None:
    (project / "skyward.toml").write_text("[pools.train]\nnodes = 4")

    with pytest.raises(ConfigError, match="no pool 'trian' is configured") as caught:
        load(project, environ).pool("trian")
    assert caught.value.hints == ("did you mean 'train'?",)


def test_an_image_table_is_an_image(project: Path, environ: dict[str, str]) -> None:
    from skyward import Image

    (project / "skyward.toml").write_text('[defaults.image]\npip = ["numpy"]')

    assert load(project, environ).defaults["image"] == Image(pip=["numpy"])


def test_skyward_home_moves_all_four_places(tmp_path: Path) -> None:
    places = Places.find({"SKYWARD_HOME": str(tmp_path)})

    assert places == Places(
        config=tmp_path / "config", cache=tmp_path / "cache", data=tmp_path / "data", state=tmp_path / "state"
    )


def test_looking_for_places_creates_none(tmp_path: Path) -> None:
    load_config({}, start=tmp_path, environ={"SKYWARD_HOME": str(tmp_path / "home")})

    assert not (tmp_path / "home").exists()


def test_created_directories_are_private_and_existing_ones_keep_their_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    directory = make_private(tmp_path / "a" / "b")

    assert [path.stat().st_mode & 0o777 for path in (directory, directory.parent, tmp_path)] == [
        0o700,
        0o700,
        0o755,
    ]


def test_no_configuration_imports_no_checker(tmp_path: Path) -> None:
    program = "import sys, skyward.config as c; c.load_config({}); sys.exit('msgspec' in sys.modules or 'tomllib' in sys.modules)"

    subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        check=True,
        env={"SKYWARD_HOME": str(tmp_path), "PYTHONPATH": str(Path(skyward.__file__).parent.parent)},
        timeout=60,
    )


# -- the schema ------------------------------------------------------------------------------------------------------


def test_defaults_are_keywords_of_a_pool() -> None:
    from inspect import signature

    import skyward as sky
    from skyward.config_schema import pool_keys

    assert set(pool_keys()) <= set(signature(sky.ComputePool).parameters)


def test_every_key_is_described() -> None:
    import msgspec

    from skyward import config_schema as schema

    tables = [schema.ImageTable, schema.PoolTable, schema.RunTable, schema.CatalogTable]
    properties = [msgspec.json.schema(table)["$defs"][table.__name__]["properties"] for table in tables]
    undescribed = [
        key
        for key, value in itertools.chain(*map(dict.items, properties))
        if "description" not in value and "$ref" not in value
    ]

    assert undescribed == []


# -- the command line's share ------------------------------------------------------------------------------------------


@pytest.fixture
def _forget_command_line() -> Iterator[None]:
    from skyward import config

    yield
    config._options.clear()
    config._file = None


@pytest.mark.usefixtures("_forget_command_line")
def test_what_the_command_line_chose_counts_everywhere(project: Path, environ: dict[str, str]) -> None:
    choose(options=["nodes=3", "nodes=4", "defaults.env.A=b=c"])

    assert load_config(start=project, environ=environ).defaults == {"nodes": 4, "env": {"A": "b=c"}}


@pytest.mark.parametrize("option", ["", "nodes", "=3", " = "])
def test_an_option_is_a_key_and_a_value(option: str) -> None:
    with pytest.raises(ConfigError, match="-o takes key=value"):
        choose(options=[option])


# -- arbitrary documents -------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["defaults", "pools", "providers", "run", "catalog", "plugins", "nodes", "env", "image", "pip", "x", ""]
)


@given(text=st.text(max_size=200) | st.builds("[{}]\n{} = {}".format, KEYS, KEYS, st.text(max_size=20)))
def test_any_text_is_either_a_configuration_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    directory = tmp_path_factory.getbasetemp() / "fuzz"
    (directory / ".git").mkdir(parents=True, exist_ok=True)
    (directory / "skyward.toml").write_text(text, errors="replace", newline="")

    try:
        config = load_config({}, start=directory, environ={"SKYWARD_HOME": str(directory)})
    except ConfigError:
        pass
    else:
        document = tomllib.loads((directory / "skyward.toml").read_text())
        assert bool(config.settings) <= bool(document)


@given(
    options=st.dictionaries(
        st.builds(".".join, st.lists(KEYS, min_size=1, max_size=3)) | st.text(min_size=1), VALUES
    )
)
def test_any_options_are_either_settings_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]
) -> None:
    directory = tmp_path_factory.getbasetemp()
    try:
        load_config(options, start=directory, environ={"SKYWARD_HOME": str(directory)})
    except ConfigError:
        pass  # any other exception fails the test
