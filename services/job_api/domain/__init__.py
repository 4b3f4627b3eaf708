"""The rules of job_api, without clock and I/O.

transitions   what may be done with a job: one table
jobs          decisions about jobs
commands      decisions about runs and backfills
settings      what settings may say beyond their form
missed        the slots a suspended job missed
preview       what a job would do
runs          what is known of runs
certificates  whom exports are encrypted for
listing       how lists of jobs are filtered and sorted
errors        what is refused
"""
