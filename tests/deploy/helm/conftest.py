"""`helm`, where there is one, and what it makes of each set of values."""

import os

import pytest

from tests.deploy.helm.chart import SETS, Helm, Release


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program = Helm.find()
    if program is None:
        if os.environ.get("CDDS_REQUIRE_HELM"):
            pytest.fail("CDDS_REQUIRE_HELM is set, and there is no helm on the path nor as CDDS_HELM")
        pytest.skip("there is no helm on the path nor as CDDS_HELM")
    return Helm(program, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session", params=SETS)
def release(request: pytest.FixtureRequest, helm: Helm) -> Release:
    """The chart with each set of values in turn."""
    return helm.release(request.param)


@pytest.fixture(scope="session")
def everything(helm: Helm) -> Release:
    return helm.release("everything")
