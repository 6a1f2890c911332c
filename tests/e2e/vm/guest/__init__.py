"""What runs inside the virtual machine, besides the agent"""
