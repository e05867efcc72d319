@echo off
rem Makes the worker a service of Windows by NSSM (nssm.cc), which must be on PATH. Run it as an administrator.
rem Coalition is in C:\coalition (py -m venv C:\coalition), the token of `coalition token create --kind site` in C:\coalition\site.token.
rem The service runs as a user of the domain who may use the studio's shares: nssm edit CoalitionWorker, "Log on".
setlocal
set HOME_DIR=C:\coalition
nssm install CoalitionWorker %HOME_DIR%\Scripts\coalition.exe || exit /b 1
nssm set CoalitionWorker AppParameters worker --state-dir %HOME_DIR%\state --token-file %HOME_DIR%\site.token --affinity windows --log-file %HOME_DIR%\worker.log
nssm set CoalitionWorker AppDirectory %HOME_DIR%
nssm set CoalitionWorker AppStderr %HOME_DIR%\start.log
rem Ctrl+C first: the worker then finishes what it runs, for up to a day; after that its job object ends all of it.
nssm set CoalitionWorker AppStopMethodSkip 0
nssm set CoalitionWorker AppStopMethodConsole 86400000
nssm set CoalitionWorker AppKillProcessTree 1
nssm set CoalitionWorker AppExit Default Restart
nssm set CoalitionWorker AppRestartDelay 10000
nssm set CoalitionWorker Start SERVICE_AUTO_START
nssm start CoalitionWorker
