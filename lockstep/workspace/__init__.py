"""The embedded workspace: a server on loopback that the real azureml-core SDK uses as its workspace.

    daemon.py                   start, stop, reset, and the environment variables that point the SDK here
    server.py, app.py, call.py  listening, routing, authentication, limits, one request decoded
    names.py, shapes.py, body.py    the door: which names, types and depth are let in
    listener.py, connection.py  addresses, and how long a client may let the server wait
    routes/                     a module per service of Azure ML, a function per REST call
    state.py, folder.py         SQLite and files under the project's `.lockstep/workspace/`
    runner.py, launch.py        queues, and a run as containers of the registered image
    mlflow_*.py                 a real `mlflow server`, and metrics carried both ways

docs/workspace.md says what is spoken and what isn't. Nothing here imports azureml: the SDK is the
client, and an emulator that shared its code would share its mistakes.
"""
