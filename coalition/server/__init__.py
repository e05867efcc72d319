"""The server: routes, rights, dispatch. `app.create_app` makes it, `run.serve` runs it under gunicorn."""
