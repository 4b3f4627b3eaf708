"""The soak: a week of load in minutes, with faults, and at the end the question whether anything grows or is wrong.

`python -m tests.soak --minutes 20 --seed 7`, or `make soak MINUTES=20`, runs a whole stack, on Apache Kafka where the
machine can, with retentions of minutes, so that the purge has work. Reading order:

world     the stack, its sources and tenants
load      what people and programs do to it, without a pause
faults    what happens to it, by a seed
archive   what the purge deletes is put aside here, so that nothing escapes the check
samples   what is measured every few seconds
check     what must be true once faults and load have stopped
growth    whether a series is flat, and what it may do
report    the table and the file of a run

docs/operate/soak.md tells operators and developers what a run says.
"""
