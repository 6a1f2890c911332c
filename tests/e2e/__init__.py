"""end-to-end tests"""
