def write_facts(a, b):
    pass
