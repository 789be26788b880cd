pytest_plugins = ["tests.page_runner.plugin", "pytester"]
