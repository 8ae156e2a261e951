"""How well entities are found: heads on one encoder (`heads`), and the served model beside others (`peers`)."""
