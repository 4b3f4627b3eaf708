"""Forms of the job editor and the settings they stand for.

values      what one or two inputs say: numbers with a unit, dates with a time, lists
form        what a browser sent, or is shown
settings    form -> settings, exactly as the API takes them, and settings -> form
faults      what is wrong with which input, in the words of its label
conflicts   two people changed a job: what differs, and which of it to keep
backfills   the form that asks for past data again
"""
