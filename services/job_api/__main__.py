from services.job_api.app import main

main()
