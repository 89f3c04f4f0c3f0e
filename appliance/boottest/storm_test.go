package boottest

// stormEnv names the LAN's namespace for TestStorm.
const stormEnv = "BOOTTEST_STORM"
