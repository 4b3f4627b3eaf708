"""One engine, one build of each image, one installation for all tests that need it."""

from collections.abc import Iterator

import pytest

from tests.deploy.docker.engine import DEMO_IMAGE, IMAGE, Composed, build, composed, require_docker


@pytest.fixture(scope="session")
def image() -> str:
    """The tag of the image, built from this checkout."""
    require_docker()
    build("cdds", IMAGE)
    return IMAGE


@pytest.fixture(scope="session")
def demo_image(image: str) -> str:
    """The tag of the demo's image."""
    build("demo", DEMO_IMAGE)
    return DEMO_IMAGE


@pytest.fixture(scope="session")
def installation(demo_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """CDDS as the compose file makes it, up and healthy."""
    with composed(tmp_path_factory.mktemp("compose")) as up:
        yield up
