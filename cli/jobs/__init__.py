"""`cdds jobs`: what is exported, when, and how; and the commands that change it."""
