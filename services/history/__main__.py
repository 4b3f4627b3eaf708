from services.history.app import main

main()
