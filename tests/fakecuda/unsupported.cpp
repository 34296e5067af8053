// Calls of capture only: the native cores look for them, and no test makes them. Without cuda.h, whose
// signatures they do not have.
#define UNSUPPORTED(name) \
    extern "C" int name() { return 801; }

UNSUPPORTED(cuFuncGetModule)
UNSUPPORTED(cuFuncGetName)
UNSUPPORTED(cuFuncGetParamInfo)
// NVRTC asks whichever libcuda.so.1 the process has, and crashes where there is none of this name.
UNSUPPORTED(cuGetExportTable)
UNSUPPORTED(cuGraphChildGraphNodeGetGraph)
UNSUPPORTED(cuGraphGetEdges_v2)
UNSUPPORTED(cuGraphKernelNodeGetAttribute)
UNSUPPORTED(cuGraphKernelNodeGetParams_v2)
UNSUPPORTED(cuGraphMemcpyNodeGetParams)
UNSUPPORTED(cuGraphMemsetNodeGetParams)
UNSUPPORTED(cuLibraryGetModule)
UNSUPPORTED(cuPointerGetAttribute)
