"""unit tests of the key management backends"""
