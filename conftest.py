pytest_plugins = ["tests.page_runner.plugin", "tests.website.report", "pytester"]
