"""What is in the image beside the services: how a container starts, how it says that it is well, what was installed."""
