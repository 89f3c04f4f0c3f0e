/* What programs of Go 1.21 and later want at their start, and Wine 8 has not. */
#include <windows.h>

BOOLEAN WINAPI SystemFunction036(PVOID, ULONG); /* RtlGenRandom */

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE p, SIZE_T n) { return SystemFunction036(p, (ULONG)n); }

BOOL WINAPI DllMain(HINSTANCE dll, DWORD reason, LPVOID reserved) { return TRUE; }
