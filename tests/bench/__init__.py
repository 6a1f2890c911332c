"""bench tests"""
