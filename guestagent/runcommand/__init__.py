"""Run Command, built in: the two handlers whose package comes with the product.

`enable` writes down what is to be run and starts a worker; the worker runs the script, detached from everybody, and
writes the status. guestagent only ever sees a handler's folder.
"""
