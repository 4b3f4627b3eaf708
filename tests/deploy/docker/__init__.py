"""The image and the compose file on a Docker engine, `make test-docker`; skipped where none answers.

Images come from wherever the engine gets them. CDDS_TEST_DOCKER_BUILD holds more arguments for `docker build`, where it
needs some to reach a package index, and with CDDS_REQUIRE_DOCKER the tests fail instead of being skipped.
"""
