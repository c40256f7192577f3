"""License identifiers: those of the Hub are accepted, and the nearest one to another spelling is suggested."""

import pytest

from srel_hub.config import Publish, Source, load_recipe
from srel_hub.config.licenses import LICENSES, nearest_license
from srel_hub.config.recipe_files import recipe_names
from srel_hub.errors import UserError
from srel_hub.hub.permission import license_problems
from srel_hub.reports.run_pictures import SHOWABLE


SPELLINGS = {
    "CC BY 4.0": "cc-by-4.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
    "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International License": "cc-by-nc-sa-4.0",
    "cc by 4": "cc-by-4.0",
    "CC0 1.0 Universal": "cc0-1.0",
    "Public Domain": "cc0-1.0",
    "The MIT License": "mit",
    "Apache License, Version 2.0": "apache-2.0",
    "GNU GPL v3": "gpl-3.0",
    "GNU General Public License v3.0": "gpl-3.0",
    "BSD 3-Clause": "bsd-3-clause",
    "Open Database License": "odbl",
    "Unlicense": "unlicense",
    "cc-by-40": "cc-by-4.0",
}


@pytest.mark.parametrize("text", SPELLINGS)
def test_the_nearest_identifier_is_suggested(text: str) -> None:
    assert nearest_license(text) == SPELLINGS[text]
    (problem,) = license_problems(Publish(), Source(path="a/b", license=text), None)
    assert f"source.license={text}: " in problem and f"did you mean {SPELLINGS[text]}?" in problem


@pytest.mark.parametrize("text", ["Proprietary", "non-commercial research", "cc-by", "my own", "公开", "-"])
def test_nothing_is_suggested_for_another_license(text: str) -> None:
    assert nearest_license(text) is None
    (problem,) = license_problems(Publish(), Source(path="a/b", license=text), None)
    assert "set source.license=other with source.license_name" in problem


def test_every_identifier_is_its_own_nearest() -> None:
    assert len(LICENSES) > 80 and all(
        nearest_license(name) == nearest_license(name.upper()) == name for name in LICENSES
    )
    assert set(SHOWABLE) <= set(LICENSES)


def test_shipped_recipes_name_licenses_of_the_hub() -> None:
    for name in (name for name in recipe_names() if "/" not in name):
        source = load_recipe(name).source
        assert license_problems(Publish(), source, None) == [] and (source.license != "other" or source.license_name)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("license_name", "My License", "license_name: must be a name of lower-case letters"),
        ("license_link", "license.txt", "must be a URL that begins with https:// or http://, or LICENSE or LICENSE.md"),
        ("license_link", "https://a b", "must be a URL"),
    ],
)
def test_a_bad_name_or_link_is_refused(field: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("quickstart", ["source.license=other", f"source.{field}={value}"])
