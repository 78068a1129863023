"""Any mapping and any bytes are a recipe, or are refused in one line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aajr_hf.cli.arguments.model_and_data import TrainArguments
from aajr_hf.cli.arguments.parsing import RecipeParser, read_recipe
from aajr_hf.cli.common.errors import UserError
from aajr_hf.training.config.sft import AAJRConfig

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NESTED = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = st.sampled_from([f.name for cls in (TrainArguments, AAJRConfig) for f in cls.__dataclass_fields__.values()])


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS | st.text(max_size=8), NESTED, max_size=4))
def test_any_mapping_is_parsed_or_refused(tmp_path_factory, fields):
    file = tmp_path_factory.mktemp("fuzz") / "recipe.yaml"
    file.write_text(yaml.safe_dump(fields))
    parser = RecipeParser((TrainArguments, AAJRConfig), prog="aajr train")
    try:
        parsed = parser.parse(["--config", str(file), "--use_cpu", "true", "--output_dir", "unused"])
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(parsed) == 2


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>#'\" \n\t0.", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("fuzz") / "recipe.yaml"
    file.write_bytes(content)
    try:
        assert all(isinstance(key, str) for key in read_recipe(file))
    except UserError as error:
        assert "\n" not in str(error)
