// For `pretend_cuda.py` on CUDA builds of PyTorch without a driver: autograd counts devices, and asks each for its context.
// g++ -std=c++17 -shared -fPIC -Wl,-soname,libcuda.so.1 -o no_driver.so no_driver.cpp;  LD_PRELOAD=./no_driver.so python ...
extern "C" {
int pretend_devices;  // 0 until `PretendCuda` has put in place a guard that guards nothing
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { *flags = *active = 0; return 0; }
}
namespace c10::cuda { signed char device_count() noexcept { return pretend_devices; } }
